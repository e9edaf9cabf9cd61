import { expect, test } from 'vitest';
import type { Step } from './api/client';
import { isCancellable, shownSteps } from './states';

const at = (second: number) => new Date(second * 1_000).toISOString();
const queued: Step = { state: 'queued', at: at(0), duration_ms: 1_000 };

test('a running deployment shows what is ahead', () => {
  const steps = shownSteps({ state: 'cloning', steps: [queued, { state: 'cloning', at: at(1) }] }, 3_000);
  expect(steps.map((step) => step.progress)).toEqual(['done', 'now', 'ahead', 'ahead', 'ahead', 'ahead', 'ahead']);
  expect(steps[0]?.durationMs).toBe(1_000);
  expect(steps[1]?.durationMs).toBe(2_000);
});

test('a failed deployment ends where it failed', () => {
  const steps = shownSteps({ state: 'failed', steps: [queued, { state: 'failed', at: at(1) }] }, 9_000);
  expect(steps.map((step) => [step.state, step.progress])).toEqual([
    ['queued', 'done'],
    ['failed', 'ended'],
  ]);
});

test('being replaced later is no step of a deployment', () => {
  const steps = shownSteps(
    { state: 'superseded', steps: [queued, { state: 'live', at: at(1) }, { state: 'superseded', at: at(9) }] },
    9_000,
  );
  expect(steps.map((step) => step.state)).toEqual(['queued', 'live']);
});

test('only what has not reached the edges can be called off', () => {
  expect(isCancellable('building')).toBe(true);
  expect(isCancellable('routing')).toBe(false);
  expect(isCancellable('live')).toBe(false);
});
