// Numbers and times as people read them.

/** `< 0.1 s`, `0.4 s`, `12 s`, `3 min 4 s`, `2 h 5 min`. */
export function duration(ms: number): string {
  const seconds = ms / 1_000;
  if (seconds < 0.1) return '< 0.1 s';
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.floor(seconds);
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
}

/** `just now`, `12 s ago`, `3 min ago`, `5 h ago`, `4 days ago`. */
export function ago(ms: number): string {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 3) return 'just now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ago`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? 'yesterday' : `${days} days ago`;
}

/** `256 MiB`, `1.5 GiB`. */
export function bytes(count: number): string {
  const gib = count / 2 ** 30;
  if (gib >= 1) return `${Number(gib.toFixed(1))} GiB`;
  return `${Math.round(count / 2 ** 20)} MiB`;
}

/** Thousandths of a core as `1 core`, `0.5 cores`. */
export function cores(millis: number): string {
  const count = millis / 1_000;
  return count === 1 ? '1 core' : `${Number(count.toFixed(2))} cores`;
}

/** Bits per second as `10 Mbit/s`, `1.5 Gbit/s`. */
export function bitRate(bitsPerSecond: number): string {
  const mbit = bitsPerSecond / 1e6;
  if (mbit >= 1_000) return `${Number((mbit / 1_000).toFixed(2))} Gbit/s`;
  if (mbit >= 1) return `${Number(mbit.toFixed(2))} Mbit/s`;
  return `${Math.round(bitsPerSecond / 1e3)} kbit/s`;
}

/** The first digits of a commit. */
export function shortCommit(commit: string): string {
  return commit.slice(0, 8);
}

/** A log line without the codes that colour it in a terminal. */
export function plainText(text: string): string {
  return text.replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, '').replace(/.*\r(?=.)/g, '');
}
