-- Set while its owner does not want the app to serve.
ALTER TABLE apps ADD COLUMN stopped_at timestamptz;
-- The deployment whose image this one starts again; none if it is to be built.
ALTER TABLE deployments ADD COLUMN repeats uuid REFERENCES deployments ON DELETE SET NULL;
