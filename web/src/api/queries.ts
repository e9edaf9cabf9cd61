// What the pages know, and when it is asked for again: when the control plane says that it changed, and what is measured
// as often as it is.
import { QueryClient } from '@tanstack/react-query';
import { type ChangeEvent, mayPass } from './client';

const RETRY_MS = 2_000;
/** How often the control plane hears what apps and machines use. */
export const USAGE_MS = 10_000;

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: Infinity,
      retry: (_, error) => mayPass(error),
      retryDelay: RETRY_MS,
      refetchOnWindowFocus: false,
    },
  },
});

export const keys = {
  me: ['me'],
  apps: ['apps'],
  app: (name: string) => ['apps', name],
  deployments: (name: string) => ['apps', name, 'deployments'],
  deployment: (id: string) => ['deployments', id],
  workers: ['workers'],
  edges: ['edges'],
  mesh: ['mesh'],
} as const;

/** What to ask for again after a change. A key stands for all that begin with it. */
export function affected(change: ChangeEvent): readonly (readonly string[])[] {
  switch (change.kind) {
    case 'app':
    case 'deployment':
      return [keys.apps, ...(change.id ? [keys.deployment(change.id)] : []), keys.workers];
    case 'node':
      return [keys.workers, keys.edges];
    case 'build_log':
      return []; // Watched where it is shown.
    case 'everything':
      return [[]];
  }
}
