-- Whether the name $1 belongs to a relation that the snapshot does not see. SQL over pg_class reads the snapshot;
-- to_regclass, has_column_privilege and pg_identify_object read what is current.
SELECT named.identity IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1))
FROM pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, pg_catalog.to_regclass($1), 0) named
