// Server-sent events as React state.
import { useEffect, useState } from 'react';
import type { BuildLog, BuildLogLine, ChangeEvent, Deployment, RuntimeLog, RuntimeLogLine } from './client';
import { affected, keys, queryClient } from './queries';
import { isSettled } from '../states';

/** Most lines of a log that are kept on the page. */
const LINES_MAX = 5_000;

/** Asks again for what changes, as long as the component is shown. Says whether the control plane can be heard. */
export function useChanges(): boolean {
  const [heard, setHeard] = useState(true);
  useEffect(() => {
    const source = new EventSource('/v1/events');
    let lost = false;
    source.onopen = () => {
      setHeard(true);
      if (lost) void queryClient.invalidateQueries();
      lost = false;
    };
    source.onerror = () => {
      lost = true;
      setHeard(false);
    };
    source.addEventListener('change', (event: MessageEvent<string>) => {
      const change = JSON.parse(event.data) as ChangeEvent;
      for (const queryKey of affected(change)) void queryClient.invalidateQueries({ queryKey });
    });
    return () => source.close();
  }, []);
  return heard;
}

/** The build log of a deployment, as it grows. Keeps the deployment itself up to date, too. */
export function useBuildLog(id: string): BuildLogLine[] {
  const [lines, setLines] = useState<BuildLogLine[]>([]);
  useEffect(() => {
    setLines([]);
    const source = new EventSource(`/v1/deployments/${id}/events`);
    source.addEventListener('log', (event: MessageEvent<string>) => {
      const log = JSON.parse(event.data) as BuildLog;
      setLines((known) => append(known, log.lines));
    });
    source.addEventListener('state', (event: MessageEvent<string>) => {
      const deployment = JSON.parse(event.data) as Deployment;
      queryClient.setQueryData(keys.deployment(id), deployment);
      // The log was sent before; without this the browser would connect again.
      if (isSettled(deployment.state)) source.close();
    });
    return () => source.close();
  }, [id]);
  return lines;
}

/** What the instances of an app, or of all, write, from the last lines on. The stream itself sends no line twice. */
export function useRuntimeLog(app?: string): RuntimeLogLine[] {
  const [lines, setLines] = useState<RuntimeLogLine[]>([]);
  useEffect(() => {
    setLines([]);
    const source = new EventSource(`${app ? `/v1/apps/${app}/logs` : '/v1/logs'}?tail=500&follow=true`);
    source.addEventListener('log', (event: MessageEvent<string>) => {
      const log = JSON.parse(event.data) as RuntimeLog;
      setLines((known) => newest(known.concat(log.lines)));
    });
    return () => source.close();
  }, [app]);
  return lines;
}

/** `known` with the lines of `added` that are newer; the newest `LINES_MAX` of them. */
export function append<Line extends { number: number }>(known: Line[], added: Line[]): Line[] {
  const last = known.at(-1)?.number ?? -1;
  return newest(known.concat(added.filter((line) => line.number > last)));
}

function newest<Line>(lines: Line[]): Line[] {
  return lines.length > LINES_MAX ? lines.slice(-LINES_MAX) : lines;
}
