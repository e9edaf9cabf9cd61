CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    state text NOT NULL,
    app_id uuid NOT NULL REFERENCES apps ON DELETE CASCADE,
    deployment_id uuid NOT NULL REFERENCES deployments ON DELETE CASCADE,
    -- Set when the job is given to a worker; a stop job has both from the start.
    instance_id uuid REFERENCES instances ON DELETE CASCADE,
    worker text REFERENCES workers,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    -- The worker said that it has the job.
    acked_at timestamptz,
    -- Extended by each heartbeat that names the job; past it, the job has failed.
    lease_expires_at timestamptz,
    -- Past it, the job has failed, whatever its worker says.
    deadline_at timestamptz,
    cancel_requested_at timestamptz,
    -- A stop job that went wrong is tried again from then on.
    not_before timestamptz,
    finished_at timestamptz,
    -- While it waits: for what. Once it has failed: why.
    message text
);

CREATE INDEX jobs_pending ON jobs (created_at) WHERE state = 'pending';
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE INDEX jobs_open_by_app ON jobs (app_id) WHERE state IN ('pending', 'running');
CREATE INDEX jobs_by_deployment ON jobs (deployment_id);

-- One row: the generation of the route table. Its routes follow from the apps, their instances and the domain below
-- which the apps have their host names.
CREATE TABLE route_table (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation bigint NOT NULL,
    domain text NOT NULL
);

INSERT INTO route_table (generation, domain) VALUES (0, '');
