-- Old deployments are removed: who repeats one is looked up.
CREATE INDEX deployments_by_repeated ON deployments (repeats) WHERE repeats IS NOT NULL;
