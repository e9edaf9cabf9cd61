// The way of a deployment: what is behind it, where it is, what is ahead.
import type { Deployment } from '../api/client';
import { duration } from '../format';
import { deploymentWords, isSettled, type ShownStep, shownSteps } from '../states';
import { useNow } from './time';

export function Steps({ deployment }: { deployment: Deployment }) {
  const now = useNow(isSettled(deployment.state) ? 60_000 : 100);
  return (
    <ol className="steps">
      {shownSteps(deployment, now).map((step) => (
        <Step key={step.state} step={step} />
      ))}
    </ol>
  );
}

function Step({ step }: { step: ShownStep }) {
  const { word, tone } = deploymentWords[step.state];
  const look = step.progress === 'ended' ? tone : step.progress;
  return (
    <li className={look} aria-current={step.progress === 'now' ? 'step' : undefined}>
      <span className="step-name">{word}</span>
      <span className="step-time">{step.durationMs === undefined ? '\u00a0' : duration(step.durationMs)}</span>
    </li>
  );
}
