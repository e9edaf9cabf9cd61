-- Workers and edges, as the configuration declares them. One that it no longer declares keeps its row, since instances
-- may still name it, but may not connect. Keys are in the configuration only.
CREATE TABLE workers (
    name text PRIMARY KEY,
    address inet NOT NULL,
    memory_bytes bigint NOT NULL DEFAULT 0,
    cpu_millis integer NOT NULL DEFAULT 0,
    version text,
    last_seen_at timestamptz,
    removed_at timestamptz
);

CREATE TABLE edges (
    name text PRIMARY KEY,
    address inet NOT NULL,
    version text,
    last_seen_at timestamptz,
    acked_generation bigint NOT NULL DEFAULT 0,
    removed_at timestamptz
);
