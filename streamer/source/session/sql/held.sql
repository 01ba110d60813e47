-- The relations that this session has locked, by their oids.
SELECT DISTINCT relation AS oid FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted
