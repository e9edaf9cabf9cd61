-- Traffic of each instance in each direction; not limited where it is NULL.
ALTER TABLE apps ADD COLUMN bandwidth_bits_per_s bigint;
