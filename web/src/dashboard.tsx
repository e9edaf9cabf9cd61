// The frame around all pages: who is signed in, which page is shown, whether the control plane can be heard.
import { useMutation, useQuery } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { Link, Route, Switch } from 'wouter';
import { api, type Me, Problem } from './api/client';
import { keys, queryClient } from './api/queries';
import { useChanges } from './api/streams';
import { AppPage } from './pages/app';
import { NewApp } from './pages/new-app';
import { Overview } from './pages/overview';
import { SignedOut, SignIn } from './pages/sign-in';
import { Mark } from './parts/mark';
import { Notice } from './parts/notice';

export function Dashboard() {
  return (
    <Switch>
      <Route path="/sign-in/:token">{({ token }) => <SignIn token={token} />}</Route>
      <Route>
        <OnlySignedIn />
      </Route>
    </Switch>
  );
}

function OnlySignedIn() {
  const me = useQuery({ queryKey: keys.me, queryFn: api.me });
  if (me.data) return <SignedIn me={me.data} />;
  if (me.error instanceof Problem && me.error.status === 401) return <SignedOut />;
  const failure = me.error ?? me.failureReason;
  return (
    <main className="narrow">
      {failure ? <Notice error={failure} /> : <p className="quiet">Loading…</p>}
    </main>
  );
}

function SignedIn({ me }: { me: Me }) {
  const heard = useChanges();
  return (
    <>
      <a className="skip" href="#main" onClick={skipToMain}>
        Skip to content
      </a>
      <header className="top">
        <Link href="/" className="brand">
          <Mark /> WiseHosting
        </Link>
        <Account me={me} />
      </header>
      {!heard && (
        <p className="banner" role="status">
          The control plane cannot be reached. Running apps are not affected; this page goes on by itself.
        </p>
      )}
      <main id="main" tabIndex={-1}>
        <Pages />
      </main>
    </>
  );
}

/** The address after # is the page's own, so a plain link to #main would leave the page. */
function skipToMain(event: React.MouseEvent) {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

function Account({ me }: { me: Me }) {
  const signOut = useMutation({ mutationFn: api.signOut, onSuccess: () => queryClient.resetQueries() });
  return (
    <div className="account">
      <span className="quiet">{me.email}</span>
      <button type="button" className="plain" onClick={() => signOut.mutate()}>
        Sign out
      </button>
    </div>
  );
}

function Pages(): ReactNode {
  return (
    <Switch>
      <Route path="/" component={Overview} />
      <Route path="/new" component={NewApp} />
      <Route path="/apps/:name">{({ name }) => <AppPage key={name} name={name} />}</Route>
      <Route path="/apps/:name/deployments/:id">
        {({ name, id }) => <AppPage key={name} name={name} deploymentId={id} />}
      </Route>
      <Route>
        <h1>There is no such page</h1>
        <Link href="/">Back to your apps</Link>
      </Route>
    </Switch>
  );
}

