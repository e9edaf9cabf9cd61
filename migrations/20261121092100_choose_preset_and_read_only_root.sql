-- How a repository is built; by its Dockerfile, or as what it looks like, if null.
ALTER TABLE apps ADD COLUMN preset text;
-- Whether its containers may write to /tmp only.
ALTER TABLE apps ADD COLUMN read_only boolean NOT NULL DEFAULT false;
