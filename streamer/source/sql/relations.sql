-- Of every relation that this session has locked: whether it is another one than the snapshot sees, and whether it may
-- have children, which trees.sql compares. SQL over pg_class sees the snapshot, pg_relation_filenode and
-- pg_identify_object see what is current.
SELECT l.relation AS oid, coalesce(c.relname, l.relation::text) AS name,
    coalesce(c.relkind = 'p' OR c.relhassubclass, false) AS parent,
    c.oid IS NULL OR c.relkind NOT IN ('i', 'I', 't') AND (
        c.relkind IN ('r', 'm') AND pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode
        OR (pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, c.oid, 0)).identity
            IS DISTINCT FROM pg_catalog.format('%I.%I', n.nspname, c.relname)
    ) AS changed
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.relation >= 16384
