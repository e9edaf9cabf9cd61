-- Certificates that the operator had forgotten: what is good from then on, or from earlier on, is not kept again. Until when they
-- were good is until when that is remembered.
ALTER TABLE certificates
    ADD COLUMN forgotten_from timestamptz,
    ADD COLUMN forgotten_until timestamptz,
    ADD CHECK (num_nulls(forgotten_from, forgotten_until) IN (0, 2));
