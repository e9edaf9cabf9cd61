-- What the instances of an app wrote: a row holds the lines of one message of a worker.
CREATE TABLE runtime_log_chunks (
    -- Grows from chunk to chunk of one app.
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_id uuid NOT NULL REFERENCES apps ON DELETE CASCADE,
    instance_id uuid NOT NULL,
    -- Time of the newest line by the worker's clock, in nanoseconds since the Unix epoch.
    newest_ns bigint NOT NULL,
    -- A list of [nanoseconds since the Unix epoch, stream, text], and how long it is.
    lines text NOT NULL,
    bytes integer NOT NULL,
    stored_at timestamptz NOT NULL
);

CREATE INDEX runtime_log_chunks_by_number ON runtime_log_chunks (app_id, id);
CREATE INDEX runtime_log_chunks_by_time ON runtime_log_chunks (app_id, newest_ns, id);
CREATE INDEX runtime_log_chunks_by_age ON runtime_log_chunks (stored_at);

-- How far the log of an instance is stored, in its worker's words. Changes together with the chunks.
CREATE TABLE runtime_log_cursors (
    instance_id uuid PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
    cursor text NOT NULL
);
