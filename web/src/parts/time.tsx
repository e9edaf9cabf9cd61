// Times that go on.
import { useEffect, useState } from 'react';
import { ago } from '../format';

/** The time now, at most `everyMs` old. */
export function useNow(everyMs: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

/** How long ago something was. */
export function Ago({ at }: { at: string }) {
  const now = useNow(1_000);
  return (
    <time dateTime={at} title={new Date(at).toLocaleString()}>
      {ago(now - Date.parse(at))}
    </time>
  );
}
