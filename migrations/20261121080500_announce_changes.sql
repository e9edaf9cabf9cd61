-- Tells listeners on the channel `changes` what to look at again, when the transaction that changed it is committed.
-- A notice names the thing and its owner, never its content: {"kind": …, "owner": …, "app": …, "id": …}. What has no
-- owner is everybody's.
CREATE FUNCTION announce(kind text, owner uuid, app text, id uuid) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('changes', json_build_object('kind', kind, 'owner', owner, 'app', app, 'id', id)::text);
$$;

CREATE FUNCTION announce_app() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    app apps := coalesce(NEW, OLD);
BEGIN
    PERFORM announce('app', app.owner_id, app.name, app.id);
    RETURN NULL;
END $$;

CREATE FUNCTION announce_deployment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM announce('deployment', owner_id, name, NEW.id) FROM apps WHERE apps.id = NEW.app_id;
    RETURN NULL;
END $$;

CREATE FUNCTION announce_part_of_deployment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM announce('deployment', apps.owner_id, apps.name, deployments.id)
    FROM deployments JOIN apps ON apps.id = deployments.app_id WHERE deployments.id = NEW.deployment_id;
    RETURN NULL;
END $$;

CREATE FUNCTION announce_build_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM announce('build_log', apps.owner_id, apps.name, deployments.id)
    FROM deployments JOIN apps ON apps.id = deployments.app_id
    WHERE deployments.id IN (SELECT deployment_id FROM added);
    RETURN NULL;
END $$;

CREATE FUNCTION announce_node() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM announce('node', NULL, NULL, NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON apps
    FOR EACH ROW EXECUTE FUNCTION announce_app();
CREATE TRIGGER announce AFTER INSERT OR UPDATE ON deployments
    FOR EACH ROW EXECUTE FUNCTION announce_deployment();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OF state ON instances
    FOR EACH ROW EXECUTE FUNCTION announce_part_of_deployment();
CREATE TRIGGER announce_running AFTER UPDATE OF running ON instances
    FOR EACH ROW WHEN (OLD.running IS DISTINCT FROM NEW.running) EXECUTE FUNCTION announce_part_of_deployment();
-- What a queued deployment waits for.
CREATE TRIGGER announce AFTER UPDATE OF message ON jobs
    FOR EACH ROW EXECUTE FUNCTION announce_part_of_deployment();
CREATE TRIGGER announce AFTER INSERT ON build_log_lines
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION announce_build_log();
CREATE TRIGGER announce AFTER INSERT OR UPDATE ON workers
    FOR EACH STATEMENT EXECUTE FUNCTION announce_node();
CREATE TRIGGER announce AFTER INSERT OR UPDATE ON edges
    FOR EACH STATEMENT EXECUTE FUNCTION announce_node();
