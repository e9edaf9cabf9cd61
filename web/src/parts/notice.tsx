// A problem in the control plane's words: what went wrong, and what to do.
import { Problem } from '../api/client';

export function Notice({ error }: { error: unknown }) {
  const message = error instanceof Error ? error.message : String(error);
  const hint = error instanceof Problem ? error.hint : undefined;
  return (
    <div className="notice" role="alert">
      <p>{message}</p>
      {hint && (
        <p className="quiet">
          <WithCode text={hint} />
        </p>
      )}
    </div>
  );
}

/** A text in which what stands between backquotes is to be typed. */
function WithCode({ text }: { text: string }) {
  return text.split('`').map((part, index) => (index % 2 === 1 ? <code key={index}>{part}</code> : part));
}
