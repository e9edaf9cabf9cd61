-- When it was last seen that its container is gone or cannot be started; while the instance is also stopped, it still is.
ALTER TABLE instances ADD COLUMN lost_at timestamptz;

-- Instances that serve on a worker which is to be empty, or are lost, and whose deployment nobody has repeated since.
CREATE OR REPLACE VIEW instances_to_move AS
SELECT i.id, i.deployment_id
FROM instances i JOIN workers w ON w.name = i.worker
WHERE i.state = 'healthy'
  AND (w.removed_at IS NOT NULL OR w.draining_at IS NOT NULL OR i.stopped AND i.lost_at IS NOT NULL)
  AND NOT EXISTS (SELECT FROM deployments d
                  WHERE d.repeats = i.deployment_id AND d.created_at >= greatest(w.removed_at, w.draining_at, i.lost_at));
