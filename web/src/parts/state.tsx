// A state as a word with a coloured dot.
import type { AppState, DeploymentState } from '../api/client';
import { appWords, deploymentWords, type Tone } from '../states';

export function State({ word, tone }: { word: string; tone: Tone }) {
  return (
    <span className={`state ${tone}`}>
      <span className="dot" aria-hidden="true" />
      {word}
    </span>
  );
}

export function AppStateWord({ state }: { state: AppState }) {
  return <State {...appWords[state]} />;
}

export function DeploymentStateWord({ state }: { state: DeploymentState }) {
  return <State {...deploymentWords[state]} />;
}
