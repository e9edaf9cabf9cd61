// The platform's own machines: whether they are connected, since when not, and how used.
import { useQuery } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { api, type Edge, type MeshNode, type Worker } from '../api/client';
import { keys, USAGE_MS } from '../api/queries';
import { bytes, cores } from '../format';
import { way } from '../way';
import { Notice } from './notice';
import { State } from './state';
import { Ago } from './time';

export function Machines() {
  const workers = useQuery({ queryKey: keys.workers, queryFn: api.workers, refetchInterval: USAGE_MS });
  const edges = useQuery({ queryKey: keys.edges, queryFn: api.edges });
  const mesh = useQuery({ queryKey: keys.mesh, queryFn: api.mesh, refetchInterval: USAGE_MS });
  const inMesh = (name: string) => mesh.data?.find((node) => node.name === name);
  const error = workers.error ?? edges.error ?? mesh.error;
  return (
    <section aria-labelledby="machines">
      <h2 id="machines">Machines</h2>
      {error && <Notice error={error} />}
      <ul className="machines">
        {workers.data?.map((worker) => (
          <WorkerCard key={worker.name} worker={worker} node={inMesh(worker.name)} />
        ))}
        {edges.data?.map((edge) => (
          <EdgeCard key={edge.name} edge={edge} node={inMesh(edge.name)} />
        ))}
      </ul>
      {workers.data?.length === 0 && (
        <p className="quiet">No worker is declared: add a [[workers]] section to the control plane’s configuration.</p>
      )}
    </section>
  );
}

const HEALTH = {
  connected: <State word="Connected" tone="good" />,
  silent: <State word="Silent" tone="bad" />,
  away: <State word="Away" tone="bad" />,
};

function Machine(props: {
  role: string;
  machine: Worker | Edge;
  health: keyof typeof HEALTH;
  draining?: boolean;
  children: ReactNode;
}) {
  const { name, observed_at: observedAt, address } = props.machine;
  return (
    <li className="card">
      <div className="row">
        <h3>{name}</h3>
        <span className="end">
          {props.draining && <State word="Draining" tone="busy" />}
          {HEALTH[props.health]}
        </span>
      </div>
      <p className="quiet">
        {props.role} at <code>{address}</code>
      </p>
      <p className="quiet">
        {observedAt ? (
          <>
            Seen <Ago at={observedAt} />
          </>
        ) : (
          'Never seen'
        )}
      </p>
      {props.children}
    </li>
  );
}

function WorkerCard({ worker, node }: { worker: Worker; node: MeshNode | undefined }) {
  const { memory_bytes: memory, memory_bytes_used: used, cpu_millis: cpu, cpu_millis_used: cpuUsed, usage } = worker;
  return (
    <Machine role="Worker" machine={worker} health={worker.state} draining={worker.draining}>
      {memory > 0 && (
        <dl className="use">
          <Use of="Memory" used={used} all={memory} show={bytes} />
          <Use of="CPU" used={cpuUsed} all={cpu} show={cores} />
        </dl>
      )}
      {usage && (
        <p className="quiet">
          Uses {cores(usage.cpu_millis)}, {bytes(usage.memory_bytes)}
          {usage.disk_bytes > 0 && `, ${bytes(usage.disk_bytes_used)} of ${bytes(usage.disk_bytes)} of disk`}
          {usage.disk_limits_held && ', which holds limits'}
        </p>
      )}
      <Ways node={node} />
    </Machine>
  );
}

/** What is promised to containers; of processor time more may be promised than there is. */
function Use({ of, used, all, show }: { of: string; used: number; all: number; show: (amount: number) => string }) {
  return (
    <>
      <dt>{of}</dt>
      <dd>
        <meter min={0} max={all} value={Math.min(used, all)} aria-label={`${of} promised`} />
        {show(used)} of {show(all)}
      </dd>
    </>
  );
}

function EdgeCard({ edge, node }: { edge: Edge; node: MeshNode | undefined }) {
  return (
    <Machine role="Edge" machine={edge} health={edge.connected ? 'connected' : 'away'}>
      <dl className="use">
        <dt>Routes</dt>
        <dd>generation {edge.acked_generation}</dd>
      </dl>
      <Ways node={node} />
    </Machine>
  );
}

/** How the machine reaches the others. */
function Ways({ node }: { node: MeshNode | undefined }) {
  if (!node?.connected || !node.told?.links.length) return null;
  return (
    <ul aria-label={`How ${node.name} reaches others`}>
      {node.told.links.map((link) => (
        <li key={link.name} className="quiet">
          {way(link)}
        </li>
      ))}
    </ul>
  );
}
