-- Every relation that this session has locked, once a plan holds its locks, and whether it may have children. An object
-- that a user has made has an oid of 16384 or more (FirstNormalObjectId in src/include/access/transam.h); the relation of
-- the dataset ($1) may be a system catalog.
--
-- From here on a lock is waited for without a limit: what the query's own functions lock is not a lock on a relation of
-- the plan.
SELECT l.relation AS oid, c.relkind, c.relkind = 'p' OR c.relhassubclass AS parent,
    pg_catalog.set_config('lock_timeout', '0', true)
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted
    AND (l.relation >= 16384 OR l.relation = $1)
