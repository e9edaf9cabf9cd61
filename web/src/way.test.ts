import { expect, test } from 'vitest';
import { way } from './way';

test('a way says its path, its round trip, when it was last heard of, and what has gone by it', () => {
  const link = { name: 'proxy-1', path: 'direct', received_bytes: 2 ** 20, sent_bytes: 3 * 2 ** 20 };
  expect(way({ ...link, round_trip_us: 421, handshake_age_ms: 12_000 })).toBe(
    'To proxy-1 directly, 0.42 ms, handshake 12 s ago, 1 MiB received, 3 MiB sent',
  );
  expect(way({ ...link, path: 'hub', round_trip_us: null })).toBe(
    'To proxy-1 by the control plane, 1 MiB received, 3 MiB sent',
  );
});
