-- What differs between the snapshot and now, once a plan holds its locks: `definite` changes, and findings that are
-- `doubtful`. `held` is all that is locked, and all partitions of it, because pg_partition_tree locks what it returns.
-- $1 is the relation of the dataset; $2, $3 and $4 are alias, schema and name of what the plan scans. An object that a
-- user has made has an oid of 16384 or more (FirstNormalObjectId in src/include/access/transam.h).
--
-- From here on a lock is waited for without a limit: what the query's own functions lock is not a lock on a relation of
-- the plan.
WITH RECURSIVE held AS MATERIALIZED (
    SELECT DISTINCT relation AS oid FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted AND relation >= 16384
),
children AS (
    SELECT i.inhparent AS parent, i.inhrelid AS child
    FROM pg_catalog.pg_inherits i WHERE NOT i.inhdetachpending
),
partitions AS MATERIALIZED (
    SELECT c.oid AS parent, t.relid::pg_catalog.oid AS child, t.level = 1 AS direct
    FROM held JOIN pg_catalog.pg_class c USING (oid), pg_catalog.pg_partition_tree(c.oid) t
    WHERE c.relkind = 'p' AND t.level > 0
),
compared AS (
    SELECT held.oid, CASE
        WHEN c.oid IS NULL THEN 'is newer than the snapshot'
        WHEN c.relkind IN ('r', 'm') AND pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode
            THEN 'was rewritten'
        WHEN named.identity IS DISTINCT FROM pg_catalog.format('%I.%I', n.nspname, c.relname) THEN 'was renamed'
        WHEN c.relkind = 'p' AND ARRAY(SELECT child FROM children WHERE parent = c.oid ORDER BY child)
            <> ARRAY(SELECT child FROM partitions WHERE parent = c.oid AND direct ORDER BY child)
            THEN 'has other partitions'
        WHEN c.oid = $1 AND EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum)
                    ).identity IS DISTINCT FROM pg_catalog.format('%s.%I', named.identity, a.attname)
        ) THEN 'has other columns'
    END AS definite,
    c.relkind IN ('r', 'f') AND EXISTS (
        SELECT FROM children WHERE parent = c.oid AND child NOT IN (SELECT held.oid FROM held)
    ) AS lacks_children
    FROM held
    LEFT JOIN pg_catalog.pg_class c ON c.oid = held.oid
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL pg_catalog.pg_identify_object(
        'pg_catalog.pg_class'::pg_catalog.regclass, held.oid, 0
    ) named ON true
    WHERE c.oid IS NULL OR c.relkind NOT IN ('i', 'I', 't')
),
scanned AS (
    SELECT DISTINCT s.alias, c.oid
    FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[]) s (alias, schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = s.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.name
),
lineage AS (
    SELECT alias, oid, oid AS ancestor FROM scanned
  UNION
    SELECT alias, oid, parent FROM lineage JOIN children ON child = ancestor
),
totals AS (SELECT alias, pg_catalog.count(*) AS scans FROM scanned GROUP BY alias),
mixed AS (
    SELECT alias FROM totals
    WHERE NOT EXISTS (
        SELECT FROM lineage WHERE lineage.alias = totals.alias
        GROUP BY ancestor HAVING pg_catalog.count(DISTINCT oid) = totals.scans
    )
)
SELECT pg_catalog.set_config('lock_timeout', '0', true),
    ARRAY(
        SELECT pg_catalog.concat_ws(' ', coalesce(named.identity, oid::pg_catalog.text), definite)
        FROM compared LEFT JOIN LATERAL pg_catalog.pg_identify_object(
            'pg_catalog.pg_class'::pg_catalog.regclass, oid, 0
        ) named ON true
        WHERE definite IS NOT NULL ORDER BY oid
    ) AS definite,
    ARRAY(
        SELECT pg_catalog.concat(oid::pg_catalog.regclass, ' has other children') FROM compared WHERE lacks_children
      UNION ALL
        SELECT pg_catalog.concat(alias, ' reads relations of several trees') FROM mixed
        ORDER BY 1
    ) AS doubtful,
    ARRAY(SELECT oid FROM held UNION SELECT child FROM partitions) AS held
