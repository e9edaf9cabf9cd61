import { expect, test } from 'vitest';
import { toCreateApp } from './new-app';

function form(values: Record<string, string>): FormData {
  const data = new FormData();
  for (const [name, value] of Object.entries(values)) data.set(name, value);
  return data;
}

test('what is left empty is left to the control plane', () => {
  expect(toCreateApp(form({ name: ' hello ', repository: 'https://h/a', branch: '', port: '', memory_mib: '' }))).toEqual({
    name: 'hello',
    repository: 'https://h/a',
    branch: null,
  });
});

test('a login is there if a token was typed', () => {
  const typed = { name: 'a', repository: 'b', login_username: ' me ', login_password: 'secret' };
  expect(toCreateApp(form(typed)).login).toEqual({ username: 'me', password: 'secret' });
  expect(toCreateApp(form({ ...typed, login_password: '' })).login).toBeUndefined();
});

test('amounts are turned into what the API takes', () => {
  const app = toCreateApp(form({ name: 'a', repository: 'b', port: '3000', memory_mib: '64' }));
  expect(app.port).toBe(3000);
  expect(app.limits).toEqual({ memory_bytes: 67_108_864 });
});
