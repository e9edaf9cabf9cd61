// One deployment: its way, why it failed, its build log as it grows, its containers.
import { useMutation, useQuery } from '@tanstack/react-query';
import { api, type Deployment, type Instance } from '../api/client';
import { keys, queryClient } from '../api/queries';
import { useBuildLog } from '../api/streams';
import { shortCommit } from '../format';
import { isCancellable, isSettled } from '../states';
import { Log } from './log';
import { Notice } from './notice';
import { DeploymentStateWord } from './state';
import { Steps } from './steps';
import { Ago } from './time';

export function DeploymentView({ id }: { id: string }) {
  const lines = useBuildLog(id);
  const { data, error } = useQuery({ queryKey: keys.deployment(id), queryFn: () => api.deployment(id) });
  if (error && !data) return <Notice error={error} />;
  if (!data) return <p className="quiet">Loading…</p>;
  return (
    <section aria-label={`Deployment ${data.number}`} className="deployment">
      <header className="row">
        <h2>Deployment {data.number}</h2>
        <span role="status">
          <DeploymentStateWord state={data.state} />
        </span>
        <Origin deployment={data} />
        <Cancel deployment={data} />
      </header>
      <Steps deployment={data} />
      <Message deployment={data} />
      <h3>Build log</h3>
      <Log
        label="Build log"
        lines={lines}
        empty={isSettled(data.state) ? 'Nothing was written.' : 'Waiting for the first line…'}
      />
      <Instances instances={data.instances} />
    </section>
  );
}

function Origin({ deployment }: { deployment: Deployment }) {
  return (
    <span className="quiet">
      {deployment.branch ?? 'default branch'}
      {deployment.commit && (
        <>
          {' '}
          at <code>{shortCommit(deployment.commit)}</code>
        </>
      )}
      , <Ago at={deployment.created_at} />
    </span>
  );
}

function Cancel({ deployment }: { deployment: Deployment }) {
  const cancel = useMutation({
    mutationFn: () => api.cancel(deployment.id),
    onSettled: () => queryClient.invalidateQueries({ queryKey: keys.deployment(deployment.id) }),
  });
  if (!isCancellable(deployment.state)) return null;
  return (
    <button type="button" className="plain end" disabled={cancel.isPending} onClick={() => cancel.mutate()}>
      {cancel.isSuccess ? 'Cancelling…' : 'Cancel'}
    </button>
  );
}

function Message({ deployment }: { deployment: Deployment }) {
  if (!deployment.message) return null;
  if (deployment.state === 'failed') return <Notice error={deployment.message} />;
  return <p className="quiet">{deployment.message}</p>;
}

function Instances({ instances }: { instances: Instance[] }) {
  if (instances.length === 0) return null;
  return (
    <>
      <h3>Containers</h3>
      <div className="scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">State</th>
              <th scope="col">Worker</th>
              <th scope="col">Address in the mesh</th>
              <th scope="col">Last seen</th>
            </tr>
          </thead>
          <tbody>
            {instances.map((instance) => (
              <tr key={instance.id}>
                <td>
                  {instance.stopped && instance.state === 'healthy' ? 'stopped' : instance.state}
                  {instance.violation && `: ${instance.violation.kind.replaceAll('_', ' ')}`}
                </td>
                <td>{instance.worker}</td>
                <td>
                  <code>{instance.address ?? '–'}</code>
                </td>
                <td>{instance.observed_at ? <Ago at={instance.observed_at} /> : '–'}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
