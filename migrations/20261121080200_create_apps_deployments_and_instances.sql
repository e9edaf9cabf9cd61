CREATE TABLE apps (
    id uuid PRIMARY KEY,
    owner_id uuid NOT NULL REFERENCES users,
    -- Names are host names, so they are unique over all owners.
    name text NOT NULL UNIQUE,
    repository text NOT NULL,
    branch text,
    port integer NOT NULL,
    health_path text NOT NULL,
    health_timeout_ms bigint NOT NULL,
    memory_bytes bigint NOT NULL,
    cpu_millis integer NOT NULL,
    pids integer NOT NULL,
    environment jsonb NOT NULL,
    -- Where its host names lead, and the first generation of the route table that says so.
    routed_deployment_id uuid,
    routed_generation bigint,
    routed_at timestamptz,
    created_at timestamptz NOT NULL,
    -- Set by a deletion; the row goes when the last instance is gone.
    deleted_at timestamptz
);

CREATE TABLE deployments (
    id uuid PRIMARY KEY,
    app_id uuid NOT NULL REFERENCES apps ON DELETE CASCADE,
    -- Counts up within the app.
    number integer NOT NULL,
    state text NOT NULL,
    -- The settings as they were when it was asked for; never changed afterwards.
    snapshot jsonb NOT NULL,
    commit text,
    image_id text,
    -- Why it failed: one sentence for the owner.
    message text,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    UNIQUE (app_id, number)
);

CREATE INDEX deployments_in_service ON deployments (app_id) WHERE state IN ('routing', 'live');

ALTER TABLE apps ADD FOREIGN KEY (routed_deployment_id) REFERENCES deployments ON DELETE SET NULL;

-- When each step of a deployment began.
CREATE TABLE deployment_steps (
    deployment_id uuid NOT NULL REFERENCES deployments ON DELETE CASCADE,
    state text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (deployment_id, state)
);

CREATE TABLE build_log_lines (
    deployment_id uuid NOT NULL REFERENCES deployments ON DELETE CASCADE,
    -- From 0, without gaps.
    line bigint NOT NULL,
    at timestamptz NOT NULL,
    stream text NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (deployment_id, line)
);

CREATE TABLE instances (
    id uuid PRIMARY KEY,
    deployment_id uuid NOT NULL REFERENCES deployments ON DELETE CASCADE,
    worker text NOT NULL REFERENCES workers,
    state text NOT NULL,
    -- Where it listens, inside the mesh.
    address inet,
    port integer,
    -- Copied from the snapshot for placement.
    memory_bytes bigint NOT NULL,
    cpu_millis integer NOT NULL,
    -- The first generation of the route table without it, once it drains.
    draining_generation bigint,
    draining_at timestamptz,
    -- What its worker last said of it, and when it was so by the worker's clock.
    running boolean,
    exit_code bigint,
    observed_at timestamptz,
    created_at timestamptz NOT NULL
);

CREATE INDEX instances_by_deployment ON instances (deployment_id);
CREATE INDEX instances_on_worker ON instances (worker) WHERE state NOT IN ('stopped', 'failed');
