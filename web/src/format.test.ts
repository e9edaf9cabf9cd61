import { expect, test } from 'vitest';
import { ago, bitRate, bytes, cores, duration, plainText } from './format';

test('durations', () => {
  expect([40, 400, 9_940, 12_300, 184_000, 7_500_000].map(duration)).toEqual([
    '< 0.1 s',
    '0.4 s',
    '9.9 s',
    '12 s',
    '3 min 4 s',
    '2 h 5 min',
  ]);
});

test('times past', () => {
  const past = [500, 12_000, 200_000, 20_000_000, 90_000_000, 400_000_000];
  expect(past.map(ago)).toEqual(['just now', '12 s ago', '3 min ago', '5 h ago', 'yesterday', '4 days ago']);
});

test('amounts', () => {
  expect(bytes(256 * 2 ** 20)).toBe('256 MiB');
  expect(bytes(1.5 * 2 ** 30)).toBe('1.5 GiB');
  expect(cores(1_000)).toBe('1 core');
  expect(cores(500)).toBe('0.5 cores');
  expect([500_000, 1_500_000, 1e9].map(bitRate)).toEqual(['500 kbit/s', '1.5 Mbit/s', '1 Gbit/s']);
});

test('a log line is shown without colours and overwritten text', () => {
  expect(plainText('\u001b[32mok\u001b[0m')).toBe('ok');
  expect(plainText('10%\r50%\r100%')).toBe('100%');
});
