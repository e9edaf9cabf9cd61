// All apps with what they are doing and where they are, and the machines below them.
import { useQuery } from '@tanstack/react-query';
import { Link } from 'wouter';
import { type App, api } from '../api/client';
import { keys, USAGE_MS } from '../api/queries';
import { bytes, cores } from '../format';
import { Machines } from '../parts/machines';
import { Notice } from '../parts/notice';
import { Output } from '../parts/output';
import { AppStateWord } from '../parts/state';
import { Ago } from '../parts/time';

export function Overview() {
  const { data, error } = useQuery({ queryKey: keys.apps, queryFn: api.apps, refetchInterval: USAGE_MS });
  return (
    <>
      <section aria-labelledby="apps">
        <header className="row">
          <h1 id="apps">Apps</h1>
          <Link href="/new" className="button end">
            New app
          </Link>
        </header>
        {error && <Notice error={error} />}
        {data?.length === 0 && <FirstApp />}
        <ul className="apps">
          {data?.map((app) => (
            <AppCard key={app.id} app={app} />
          ))}
        </ul>
        {data && data.length > 0 && <Output />}
      </section>
      <Machines />
    </>
  );
}

function FirstApp() {
  return (
    <div className="card first">
      <p>
        <strong>You have no app yet.</strong> An app is a git repository.
      </p>
      <p className="quiet">
        <Link href="/new">Add one here</Link>, or from a terminal:
      </p>
      <pre>wisehosting deploy https://example.org/hello.git --name hello</pre>
    </div>
  );
}

function AppCard({ app }: { app: App }) {
  return (
    <li className="card app">
      <div className="row">
        <h2>
          <Link href={`/apps/${app.name}`}>{app.name}</Link>
        </h2>
        <span className="end">
          <AppStateWord state={app.state} />
        </span>
      </div>
      <p>{app.live ? <a href={app.url}>{withoutScheme(app.url)}</a> : <span className="quiet">{withoutScheme(app.url)}</span>}</p>
      <p className="quiet">
        {app.latest ? (
          <>
            Deployment {app.latest.number}, <Ago at={app.latest.created_at} />
          </>
        ) : (
          <>
            Made <Ago at={app.created_at} />
          </>
        )}
      </p>
      {app.usage && (
        <p className="quiet">
          Uses {cores(app.usage.cpu_millis)}, {bytes(app.usage.memory_bytes)}
        </p>
      )}
    </li>
  );
}

function withoutScheme(url: string): string {
  return url.replace(/^https?:\/\//, '');
}
