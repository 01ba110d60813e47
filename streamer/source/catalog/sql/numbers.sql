-- The names and numbers of the columns of the relation $1.
SELECT attname, attnum FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
