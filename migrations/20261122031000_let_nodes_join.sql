-- Tokens with which machines that no configuration declares may join. Of a token only its public half is here: a copy of the
-- database joins nothing.
CREATE TABLE join_tokens (
    id bytea PRIMARY KEY,
    verifier bytea NOT NULL,
    role text NOT NULL CHECK (role IN ('worker', 'edge')),
    -- The only name that it is good for.
    node text,
    uses_left integer NOT NULL CHECK (uses_left >= 0),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- When the challenge was made that was met last with this token: neither that one nor an older one is taken again.
    challenged_at timestamptz
);

-- Machines that have joined. A removed one keeps its row, and so its address, until the address may be another's.
CREATE TABLE joined_nodes (
    name text PRIMARY KEY,
    role text NOT NULL CHECK (role IN ('worker', 'edge')),
    address inet NOT NULL UNIQUE,
    public_key bytea NOT NULL,
    api_key_sha256 bytea NOT NULL,
    -- The other key with which an operator lets it come back.
    approved_public_key bytea,
    joined_at timestamptz NOT NULL,
    removed_at timestamptz
);
CREATE UNIQUE INDEX joined_nodes_have_keys_of_their_own ON joined_nodes (public_key) WHERE removed_at IS NULL;
