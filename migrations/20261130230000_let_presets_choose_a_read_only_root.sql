-- Null where its owner has not said: then the preset decides. False was what nobody had said so far.
ALTER TABLE apps ALTER COLUMN read_only DROP DEFAULT, ALTER COLUMN read_only DROP NOT NULL;
UPDATE apps SET read_only = NULL WHERE NOT read_only;
