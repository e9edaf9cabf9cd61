-- Certificates that edges share, and who may order one: one edge at a time, until its lease ends.
CREATE TABLE certificates (
    host text PRIMARY KEY,
    -- In PEM, the key sealed: {"k": key, "v": value}.
    chain text,
    key jsonb,
    not_before timestamptz,
    not_after timestamptz,
    order_id uuid,
    ordered_by text,
    lease_until timestamptz,
    -- What all edges show while the order is under way: {"kind", "token", "key_authorization"}.
    challenge jsonb,
    -- Orders that failed since the last certificate, and until when nobody orders.
    failures integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    CHECK (num_nulls(chain, key, not_before, not_after) IN (0, 4)),
    CHECK (num_nulls(order_id, ordered_by, lease_until) IN (0, 3))
);
