// The API client: typed by the generated schema, with one kind of error.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema';

type Schemas = components['schemas'];
export type App = Schemas['App'];
export type AppState = Schemas['AppState'];
export type BuildLog = Schemas['BuildLog'];
export type BuildLogLine = Schemas['BuildLogLine'];
export type ChangeEvent = Schemas['ChangeEvent'];
export type CreateApp = Schemas['CreateApp'];
export type Deployment = Schemas['Deployment'];
export type DeploymentState = Schemas['DeploymentState'];
export type DeploymentSummary = Schemas['DeploymentSummary'];
export type Edge = Schemas['Edge'];
export type Instance = Schemas['Instance'];
export type Me = Schemas['Me'];
export type MeshLink = Schemas['LinkNow'];
export type MeshNode = Schemas['MeshNode'];
export type RuntimeLog = Schemas['RuntimeLog'];
export type RuntimeLogLine = Schemas['RuntimeLogLine'];
export type SetLogin = Schemas['SetLogin'];
export type Step = Schemas['Step'];
export type UpdateApp = Schemas['UpdateApp'];
export type Worker = Schemas['Worker'];

/** Why a request failed, in the control plane's own words where it answered. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint?: string | null,
    readonly field?: string | null,
  ) {
    super(message);
  }
}

/** Whether the same request may succeed later without anybody changing anything. */
export function mayPass(error: unknown): boolean {
  return error instanceof Problem && (error.status === 0 || error.status === 503);
}

const client = createClient<paths>();

client.use({
  onError: () => new Problem(0, 'unreachable', 'The control plane cannot be reached.', 'Running apps are not affected.'),
  async onResponse({ response }) {
    if (response.ok) return undefined;
    const body: unknown = await response.clone().json().catch(() => null);
    if (isErrorBody(body)) {
      const { code, message, hint, field } = body.error;
      throw new Problem(response.status, code, message, hint, field);
    }
    throw new Problem(response.status, 'unknown', `The control plane answered ${response.status}.`);
  },
});

function isErrorBody(body: unknown): body is Schemas['ErrorBody'] {
  return typeof body === 'object' && body !== null && 'error' in body;
}

/** The body of a successful answer. */
async function body<T>(answer: Promise<{ data?: T }>): Promise<T> {
  const { data } = await answer;
  if (data === undefined) throw new Problem(0, 'empty', 'The control plane answered nothing.');
  return data;
}

/** The requests that the pages make. Each throws a `Problem`. */
export const api = {
  me: () => body(client.GET('/v1/me')),
  signIn: (token: string) => body(client.POST('/v1/session', { body: { token } })),
  signOut: async () => {
    await client.DELETE('/v1/session');
  },
  apps: async () => (await body(client.GET('/v1/apps'))).apps,
  app: (name: string) => body(client.GET('/v1/apps/{name}', { params: { path: { name } } })),
  createApp: (app: CreateApp) => body(client.POST('/v1/apps', { body: app })),
  updateApp: (name: string, change: UpdateApp) =>
    body(client.PATCH('/v1/apps/{name}', { params: { path: { name } }, body: change })),
  deleteApp: async (name: string) => {
    await client.DELETE('/v1/apps/{name}', { params: { path: { name } } });
  },
  deployments: async (name: string) =>
    (await body(client.GET('/v1/apps/{name}/deployments', { params: { path: { name } } }))).deployments,
  deployment: (id: string) => body(client.GET('/v1/deployments/{id}', { params: { path: { id } } })),
  deploy: (name: string) =>
    body(client.POST('/v1/apps/{name}/deployments', { params: { path: { name } }, body: {} })),
  cancel: (id: string) => body(client.POST('/v1/deployments/{id}/cancel', { params: { path: { id } } })),
  workers: async () => (await body(client.GET('/v1/workers'))).workers,
  edges: async () => (await body(client.GET('/v1/edges'))).edges,
  mesh: async () => (await body(client.GET('/v1/mesh'))).nodes,
};
