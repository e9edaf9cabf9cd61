-- The login of a private repository: {"origin", "username", "password", "set_at"}, the password sealed.
ALTER TABLE apps ADD COLUMN login jsonb;
