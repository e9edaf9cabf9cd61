-- Instances of old deployments are removed: the jobs of one are looked up.
CREATE INDEX jobs_by_instance ON jobs (instance_id);
