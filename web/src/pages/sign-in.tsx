// Signing in: by a link that works once, and what to do without one.
import { useMutation } from '@tanstack/react-query';
import { useEffect, useRef } from 'react';
import { useLocation } from 'wouter';
import { api } from '../api/client';
import { keys, queryClient } from '../api/queries';
import { Mark } from '../parts/mark';
import { Notice } from '../parts/notice';

/** Uses up the link's token, which stands after the # of the address and so was never sent to any server. */
export function SignIn({ token }: { token: string }) {
  const [, navigate] = useLocation();
  const signIn = useMutation({
    mutationFn: api.signIn,
    onSuccess: (me) => {
      queryClient.setQueryData(keys.me, me);
      navigate('/', { replace: true });
    },
  });
  const begun = useRef(false);
  useEffect(() => {
    // An effect may run twice, but a link works once.
    if (!begun.current) signIn.mutate(token);
    begun.current = true;
  }, [signIn, token]);
  return (
    <main className="narrow">
      <Mark />
      <h1>{signIn.isError ? 'This link does not work' : 'Signing in…'}</h1>
      {signIn.isError && <Notice error={signIn.error} />}
    </main>
  );
}

export function SignedOut() {
  return (
    <main className="narrow">
      <Mark />
      <h1>Sign in</h1>
      <p>You need a sign-in link. On the control plane, the operator makes one that works once:</p>
      <pre>wisehosting-control-plane --config … login-link --email you@example.org</pre>
      <p className="quiet">On one machine, <code>wisehosting up</code> prints one.</p>
    </main>
  );
}
