// A form for a new app. What the control plane refuses is shown at the field that it is about.
import { useMutation } from '@tanstack/react-query';
import { type FormEvent, type ReactNode, useId } from 'react';
import { Link, useLocation } from 'wouter';
import { api, type CreateApp, Problem } from '../api/client';
import { keys, queryClient } from '../api/queries';
import { toCreateApp } from '../new-app';
import { Notice } from '../parts/notice';

const FIELDS = ['name', 'repository', 'branch', 'login', 'login.username', 'login.password', 'port', 'health_path', 'limits.memory_bytes'];

export function NewApp() {
  const [, navigate] = useLocation();
  const create = useMutation({
    mutationFn: async (app: CreateApp) => {
      await api.createApp(app);
      // Should this fail, the app is there all the same, and its page has a button for it.
      await api.deploy(app.name).catch(() => undefined);
    },
    onSuccess: (_, app) => {
      void queryClient.invalidateQueries({ queryKey: keys.apps });
      navigate(`/apps/${app.name}`);
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    create.mutate(toCreateApp(new FormData(event.currentTarget)));
  };
  const field = create.error instanceof Problem ? create.error.field : undefined;
  // The message begins with the field's name; here it stands at the field already.
  const errorOf = (name: string) => (field === name ? create.error?.message.replace(`${name}: `, '') : undefined);
  return (
    <>
      <p className="crumb">
        <Link href="/">Apps</Link>
      </p>
      <h1>New app</h1>
      <form className="new" onSubmit={submit} noValidate>
        <Field label="Name" name="name" error={errorOf('name')} hint="A DNS label: the first part of its address." required />
        <Field
          label="Repository"
          name="repository"
          error={errorOf('repository')}
          hint="An https:// address of a git repository, without credentials."
          required
        />
        <Field label="Branch or tag" name="branch" error={errorOf('branch')} hint="The repository’s default branch if empty." />
        <details open={field ? !['name', 'repository', 'branch'].includes(field) : undefined}>
          <summary>More settings</summary>
          <Field
            label="Token"
            name="login_password"
            type="password"
            error={errorOf('login.password') ?? errorOf('login')}
            hint="For a private repository: a token that may read it. It is never shown again."
          />
          <Field
            label="User"
            name="login_username"
            initial="x-access-token"
            error={errorOf('login.username')}
            hint="Whose token that is. Most hosts take any name."
          />
          <Field
            label="Port"
            name="port"
            type="number"
            initial="8080"
            error={errorOf('port')}
            hint="Where the container listens. A port that the image exposes alone takes its place."
          />
          <Field label="Health path" name="health_path" initial="/" error={errorOf('health_path')} hint="Must answer before visitors are sent there." />
          <Field label="Memory in MiB" name="memory_mib" type="number" initial="256" error={errorOf('limits.memory_bytes')} hint="At least 16." />
        </details>
        {create.error && !(field && FIELDS.includes(field)) && <Notice error={create.error} />}
        <button type="submit" className="button" disabled={create.isPending}>
          Create and deploy
        </button>
      </form>
    </>
  );
}

interface FieldProps {
  label: string;
  name: string;
  type?: string;
  initial?: string;
  required?: boolean;
  hint: string;
  error?: string;
}

function Field({ label, name, type = 'text', initial, required, hint, error }: FieldProps): ReactNode {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        name={name}
        type={type}
        defaultValue={initial}
        required={required}
        aria-invalid={error ? true : undefined}
        aria-describedby={`${id}-hint ${id}-error`}
        autoComplete="off"
        autoCapitalize="none"
        spellCheck={false}
      />
      <p id={`${id}-error`} className="error" role={error ? 'alert' : undefined}>
        {error}
      </p>
      <p id={`${id}-hint`} className="quiet">
        {hint}
      </p>
    </div>
  );
}
