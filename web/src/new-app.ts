// From the form's texts to the request. The control plane judges the values, not we.
import type { CreateApp, SetLogin } from './api/client';

/** The login for a private repository, if one was typed. A password is taken as it is. */
export function toLogin(form: FormData): SetLogin | undefined {
  const password = String(form.get('login_password') ?? '');
  const username = String(form.get('login_username') ?? '').trim();
  return password === '' ? undefined : { username: username || undefined, password };
}

const MIB = 2 ** 20;

export function toCreateApp(form: FormData): CreateApp {
  const text = (name: string) => String(form.get(name) ?? '').trim();
  const number = (name: string) => (text(name) === '' ? undefined : Number(text(name)));
  const memoryMib = number('memory_mib');
  return {
    name: text('name'),
    repository: text('repository'),
    branch: text('branch') || null,
    login: toLogin(form),
    port: number('port'),
    health_path: text('health_path') || undefined,
    limits: memoryMib === undefined ? undefined : { memory_bytes: Math.round(memoryMib * MIB) },
  };
}
