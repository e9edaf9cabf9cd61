// The states of apps and deployments in words, and what follows from them for the page.
import type { AppState, Deployment, DeploymentState, Step } from './api/client';

/** How a state looks: a colour is never the only sign, the word stands beside it. */
export type Tone = 'good' | 'busy' | 'bad' | 'quiet';

export const appWords: Record<AppState, { word: string; tone: Tone }> = {
  idle: { word: 'Not deployed', tone: 'quiet' },
  deploying: { word: 'Deploying', tone: 'busy' },
  live: { word: 'Live', tone: 'good' },
  down: { word: 'Down', tone: 'bad' },
  degraded: { word: 'Live, last deploy failed', tone: 'bad' },
  failed: { word: 'Failed', tone: 'bad' },
  stopped: { word: 'Stopped', tone: 'quiet' },
};

export const deploymentWords: Record<DeploymentState, { word: string; tone: Tone }> = {
  queued: { word: 'Queued', tone: 'busy' },
  cloning: { word: 'Cloning', tone: 'busy' },
  building: { word: 'Building', tone: 'busy' },
  starting: { word: 'Starting', tone: 'busy' },
  checking: { word: 'Checking health', tone: 'busy' },
  routing: { word: 'Routing', tone: 'busy' },
  live: { word: 'Live', tone: 'good' },
  superseded: { word: 'Replaced', tone: 'quiet' },
  stopped: { word: 'Stopped', tone: 'quiet' },
  failed: { word: 'Failed', tone: 'bad' },
  cancelled: { word: 'Cancelled', tone: 'quiet' },
};

/** The way of a deployment that goes well. */
const WAY: DeploymentState[] = ['queued', 'cloning', 'building', 'starting', 'checking', 'routing', 'live'];

/** Whether a deployment needs no more watching. */
export function isSettled(state: DeploymentState): boolean {
  return deploymentWords[state].tone !== 'busy';
}

/** Whether a deployment can still be called off. */
export function isCancellable(state: DeploymentState): boolean {
  return !isSettled(state) && state !== 'routing';
}

/** One step as it is shown. */
export interface ShownStep {
  state: DeploymentState;
  progress: 'done' | 'now' | 'ahead' | 'ended';
  /** How long it took, or has taken so far. */
  durationMs?: number;
}

/** The steps of a deployment: those behind it, the one that it is at, and, if all may still go well, those ahead. */
export function shownSteps(deployment: Pick<Deployment, 'state' | 'steps'>, now: number): ShownStep[] {
  const reached = deployment.steps.filter((step) => step.state !== 'superseded' && step.state !== 'stopped').map(toShown(deployment, now));
  if (isSettled(deployment.state)) return reached;
  const ahead = WAY.slice(WAY.indexOf(deployment.state) + 1);
  return [...reached, ...ahead.map((state): ShownStep => ({ state, progress: 'ahead' }))];
}

function toShown(deployment: Pick<Deployment, 'state'>, now: number): (step: Step) => ShownStep {
  return ({ state, at, duration_ms: durationMs }) => {
    if (isSettled(state)) return { state, progress: state === 'live' ? 'done' : 'ended' };
    if (state !== deployment.state) return { state, progress: 'done', durationMs: durationMs ?? undefined };
    return { state, progress: 'now', durationMs: Math.max(0, now - Date.parse(at)) };
  };
}
