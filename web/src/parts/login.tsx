// The login of an app's private repository: set, replaced or removed. It is never shown.
import { useMutation } from '@tanstack/react-query';
import type { FormEvent } from 'react';
import { type App, api } from '../api/client';
import { keys, queryClient } from '../api/queries';
import { toLogin } from '../new-app';
import { Notice } from './notice';

export function Login({ app }: { app: App }) {
  const change = useMutation({
    mutationFn: (login: ReturnType<typeof toLogin> | null) => api.updateApp(app.name, { login }),
    onSuccess: (changed) => queryClient.setQueryData(keys.app(app.name), changed),
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    change.mutate(toLogin(new FormData(form)), { onSuccess: () => form.reset() });
  };
  return (
    <form className="inline" onSubmit={submit}>
      <label htmlFor="login-username">User</label>
      <input id="login-username" name="login_username" defaultValue="x-access-token" autoComplete="off" required />
      <label htmlFor="login-password">Token</label>
      <input id="login-password" name="login_password" type="password" autoComplete="off" required />
      <button type="submit" className="button" disabled={change.isPending}>
        {app.settings.login ? 'Replace the login' : 'Set the login'}
      </button>
      {app.settings.login && (
        <button type="button" className="danger" disabled={change.isPending} onClick={() => change.mutate(null)}>
          Remove it
        </button>
      )}
      {change.error && <Notice error={change.error} />}
    </form>
  );
}
