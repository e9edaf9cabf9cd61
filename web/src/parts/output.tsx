// What the containers of an app, or of all, write.
import { useState } from 'react';
import { useRuntimeLog } from '../api/streams';
import { Log } from './log';

/** Asked for only when somebody looks: it is a connection of its own. */
export function Output({ app }: { app?: string }) {
  const [open, setOpen] = useState(false);
  const label = app ? 'Output of its containers' : 'Output of all apps';
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{label}</summary>
      {open && <Lines app={app} label={label} />}
    </details>
  );
}

function Lines({ app, label }: { app?: string; label: string }) {
  const lines = useRuntimeLog(app);
  const shown = app ? lines : lines.map((line) => ({ ...line, source: line.app }));
  return <Log label={label} lines={shown} empty="Nothing was written yet." />;
}
