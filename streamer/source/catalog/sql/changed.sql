-- The name of one of some relations ($1) that was dropped or renamed after the snapshot was taken; NULL if there is
-- none. SQL over pg_class reads the snapshot; pg_identify_object reads what is current.
SELECT pg_catalog.min(pg_catalog.format('%I.%I', n.nspname, c.relname))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1::oid[])
  AND (pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, c.oid, 0)).identity
      IS DISTINCT FROM pg_catalog.format('%I.%I', n.nspname, c.relname)
