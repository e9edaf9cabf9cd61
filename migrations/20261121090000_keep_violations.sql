-- Whether an instance has not run for a while, or is kept from running.
ALTER TABLE instances ADD COLUMN stopped boolean NOT NULL DEFAULT false;

-- Limits that instances broke. A worker tells each one again and again: it is known by its time.
CREATE TABLE violations (
    instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    kind text NOT NULL,
    -- What happened and what to do, for the owner.
    message text NOT NULL,
    -- By the worker's clock.
    observed_at timestamptz NOT NULL,
    PRIMARY KEY (instance_id, observed_at)
);

CREATE TRIGGER announce_stopped AFTER UPDATE OF stopped ON instances
    FOR EACH ROW WHEN (OLD.stopped IS DISTINCT FROM NEW.stopped) EXECUTE FUNCTION announce_part_of_deployment();

CREATE FUNCTION announce_violation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM announce('deployment', apps.owner_id, apps.name, deployments.id)
    FROM instances JOIN deployments ON deployments.id = instances.deployment_id JOIN apps ON apps.id = deployments.app_id
    WHERE instances.id = NEW.instance_id;
    RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER INSERT ON violations
    FOR EACH ROW EXECUTE FUNCTION announce_violation();
