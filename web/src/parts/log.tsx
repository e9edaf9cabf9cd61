// A log that stays at its end while it grows, unless somebody scrolled up to read.
import { useLayoutEffect, useRef } from 'react';
import { plainText } from '../format';

interface Line {
  number: number;
  at: string;
  stream: string;
  text: string;
  /** Whose line it is, where that is not clear. */
  source?: string;
}

/** How near the end counts as there, in pixels. */
const NEAR = 24;

export function Log({ label, lines, empty }: { label: string; lines: Line[]; empty: string }) {
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  useLayoutEffect(() => {
    if (box.current && atEnd.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const noticeScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current ?? document.body;
    atEnd.current = scrollHeight - scrollTop - clientHeight < NEAR;
  };
  return (
    <div className="log" ref={box} onScroll={noticeScroll} role="log" aria-label={label} tabIndex={0}>
      {lines.length === 0 && <p className="quiet">{empty}</p>}
      {lines.map((line) => (
        <div key={line.number} className={line.stream} title={line.at}>
          {line.source && <strong>{line.source} </strong>}
          {plainText(line.text) || '\u00a0'}
        </div>
      ))}
    </div>
  );
}
