-- What each instance may write to its disk and keep there; not limited where it is NULL.
ALTER TABLE apps ADD COLUMN disk_bytes bigint;
