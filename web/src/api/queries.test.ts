import { expect, test } from 'vitest';
import { affected, keys } from './queries';

test('a changed deployment is asked for again, with the lists that it is in', () => {
  const asked = affected({ kind: 'deployment', app: 'hello', id: 'd1' });
  expect(asked).toContainEqual(keys.deployment('d1'));
  expect(asked).toContainEqual(keys.apps);
});

test('the list of apps stands for all that is known of single apps', () => {
  expect(keys.deployments('hello').slice(0, keys.apps.length)).toEqual(keys.apps);
});

test('after missed changes everything is asked for again', () => {
  expect(affected({ kind: 'everything' })).toEqual([[]]);
});

test('a growing log asks for nothing', () => {
  expect(affected({ kind: 'build_log', id: 'd1' })).toEqual([]);
});
