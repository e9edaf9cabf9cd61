// One app: deploy it, see its deployments and what its containers write, delete it.
import { useMutation, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { Link, useLocation } from 'wouter';
import { type App, api, type DeploymentSummary } from '../api/client';
import { keys, queryClient, USAGE_MS } from '../api/queries';
import { bitRate, bytes, cores, duration, shortCommit } from '../format';
import { DeploymentView } from '../parts/deployment';
import { Login } from '../parts/login';
import { Notice } from '../parts/notice';
import { Output } from '../parts/output';
import { AppStateWord, DeploymentStateWord } from '../parts/state';
import { Ago } from '../parts/time';

export function AppPage({ name, deploymentId }: { name: string; deploymentId?: string }) {
  const app = useQuery({ queryKey: keys.app(name), queryFn: () => api.app(name), refetchInterval: USAGE_MS });
  const deployments = useQuery({ queryKey: keys.deployments(name), queryFn: () => api.deployments(name) });
  if (app.error && !app.data) return <Notice error={app.error} />;
  if (!app.data) return <p className="quiet">Loading…</p>;
  const shown = deploymentId ?? deployments.data?.[0]?.id;
  return (
    <>
      <AppHeader app={app.data} />
      {shown ? <DeploymentView key={shown} id={shown} /> : <p className="quiet">It was not deployed yet.</p>}
      {deployments.error && <Notice error={deployments.error} />}
      {deployments.data && deployments.data.length > 0 && (
        <History app={name} deployments={deployments.data} shown={shown} />
      )}
      <Output app={name} />
      <Settings app={app.data} />
      <Delete name={name} />
    </>
  );
}

function AppHeader({ app }: { app: App }) {
  const [, navigate] = useLocation();
  const deploy = useMutation({
    mutationFn: () => api.deploy(app.name),
    onSuccess: (deployment) => {
      queryClient.setQueryData(keys.deployment(deployment.id), deployment);
      navigate(`/apps/${app.name}`);
    },
  });
  return (
    <header>
      <p className="crumb">
        <Link href="/">Apps</Link>
      </p>
      <div className="row">
        <h1>{app.name}</h1>
        <span role="status">
          <AppStateWord state={app.state} />
        </span>
        <button type="button" className="button end" disabled={deploy.isPending} onClick={() => deploy.mutate()}>
          Deploy
        </button>
      </div>
      <p className="addresses">
        {app.urls.map((url) => (
          <a key={url} href={url}>
            {url}
          </a>
        ))}
      </p>
      {app.usage && (
        <p className="quiet">
          Uses {cores(app.usage.cpu_millis)} and {bytes(app.usage.memory_bytes)} of memory
        </p>
      )}
      {deploy.error && <Notice error={deploy.error} />}
      {app.violation && <Notice error={app.violation.message} />}
    </header>
  );
}

function History(props: { app: string; deployments: DeploymentSummary[]; shown?: string }) {
  return (
    <section aria-labelledby="history">
      <h2 id="history">Deployments</h2>
      <div className="scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">Number</th>
              <th scope="col">State</th>
              <th scope="col">Commit</th>
              <th scope="col">Took</th>
              <th scope="col">When</th>
            </tr>
          </thead>
          <tbody>
            {props.deployments.map((deployment) => (
              <tr key={deployment.id} className={deployment.id === props.shown ? 'shown' : undefined}>
                <td>
                  <Link
                    href={`/apps/${props.app}/deployments/${deployment.id}`}
                    aria-current={deployment.id === props.shown ? 'true' : undefined}
                  >
                    {deployment.number}
                  </Link>
                </td>
                <td>
                  <DeploymentStateWord state={deployment.state} />
                </td>
                <td>
                  <code>{deployment.commit ? shortCommit(deployment.commit) : '–'}</code>
                </td>
                <td>{took(deployment)}</td>
                <td>
                  <Ago at={deployment.created_at} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function took({ created_at: from, finished_at: to }: DeploymentSummary): string {
  return to ? duration(Date.parse(to) - Date.parse(from)) : '–';
}

function Settings({ app }: { app: App }) {
  const { repository, branch, login, port, health_path: path, limits, environment } = app.settings;
  return (
    <details>
      <summary>Settings</summary>
      <dl className="settings">
        <dt>Repository</dt>
        <dd>{repository}</dd>
        <dt>Branch</dt>
        <dd>{branch ?? 'the default one'}</dd>
        <dt>Login</dt>
        <dd>
          {login ? (
            <>
              as {login.username}, set <Ago at={login.set_at} />
            </>
          ) : (
            'none'
          )}
        </dd>
        <dt>Listens on</dt>
        <dd>
          port {port}, health is asked at <code>{path}</code>
        </dd>
        <dt>Limits</dt>
        <dd>
          {bytes(limits.memory_bytes)}, {cores(limits.cpu_millis)}, {limits.pids} processes
          {limits.bandwidth_bits_per_s && `, ${bitRate(limits.bandwidth_bits_per_s)} each way`}
          {limits.disk_bytes && `, ${bytes(limits.disk_bytes)} of disk`}
        </dd>
        <dt>Environment</dt>
        <dd>{environment.join(', ') || 'empty'}</dd>
      </dl>
      <Login app={app} />
    </details>
  );
}

function Delete({ name }: { name: string }) {
  const [, navigate] = useLocation();
  const [typed, setTyped] = useState('');
  const remove = useMutation({
    mutationFn: () => api.deleteApp(name),
    onSuccess: () => {
      void queryClient.invalidateQueries({ queryKey: keys.apps });
      navigate('/');
    },
  });
  return (
    <details>
      <summary>Delete</summary>
      <p>Its address stops to answer and its containers are removed. Its repository is not touched.</p>
      <form
        className="inline"
        onSubmit={(event) => {
          event.preventDefault();
          remove.mutate();
        }}
      >
        <label htmlFor="confirm">Type {name} to confirm</label>
        <input id="confirm" value={typed} onChange={(event) => setTyped(event.target.value)} autoComplete="off" />
        <button type="submit" className="danger" disabled={typed !== name || remove.isPending}>
          Delete this app
        </button>
      </form>
      {remove.error && <Notice error={remove.error} />}
    </details>
  );
}
