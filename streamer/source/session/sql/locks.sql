-- The relations that this session has locked, once a plan holds its locks, and whether they may have children: those of
-- users, and the relation of the dataset ($1), which may be a system catalog.
--
-- From here on the session waits for a lock without a limit: what the functions of the query lock is not a lock on a
-- relation of the plan.
SELECT held.oid, c.relkind, c.relkind = 'p' OR c.relhassubclass AS parent,
    pg_catalog.set_config('lock_timeout', '0', true)
FROM ({held}) held LEFT JOIN pg_catalog.pg_class c ON c.oid = held.oid
WHERE held.oid >= {first_user_oid} OR held.oid = $1
