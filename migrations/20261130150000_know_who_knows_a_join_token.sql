-- Names of the nodes that have joined with a token: whoever removes one of them ends it.
ALTER TABLE join_tokens ADD COLUMN holders text[] NOT NULL DEFAULT '{}';

-- What signs the channel of one node signs nobody else's.
CREATE UNIQUE INDEX joined_nodes_have_api_keys_of_their_own ON joined_nodes (api_key_sha256) WHERE removed_at IS NULL;
