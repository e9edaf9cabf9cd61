import { expect, test } from 'vitest';
import { append } from './streams';

const lines = (...numbers: number[]) => numbers.map((number) => ({ number }));

test('a line that comes again after a reconnect is shown once', () => {
  expect(append(lines(0, 1), lines(0, 1, 2))).toEqual(lines(0, 1, 2));
});

test('only the newest lines are kept', () => {
  const many = Array.from({ length: 6_000 }, (_, number) => ({ number }));
  const kept = append([], many);
  expect(kept).toHaveLength(5_000);
  expect(kept.at(-1)).toEqual({ number: 5_999 });
});
