-- What relations.sql cannot see: children of parents, and the columns of a relation that could not be locked before the
-- snapshot. `definite` are changes, `doubtful` are findings that may be of the query itself. `held` is all that is locked,
-- and all partitions of it, because pg_partition_tree locks what it returns.
--
-- $1 is the relation of the dataset; $2, $3 and $4 are alias, schema and name of what the plan scans.
WITH RECURSIVE held AS MATERIALIZED (
    SELECT DISTINCT relation AS oid FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted AND relation >= 16384
),
children AS (
    SELECT inhparent AS parent, inhrelid AS child FROM pg_catalog.pg_inherits WHERE NOT inhdetachpending
),
partitions AS MATERIALIZED (
    SELECT c.oid AS parent, t.relid::oid AS child, t.level = 1 AS direct
    FROM held JOIN pg_catalog.pg_class c USING (oid), pg_catalog.pg_partition_tree(c.oid) t
    WHERE c.relkind = 'p' AND t.level > 0
),
other_partitions AS (
    SELECT c.oid
    FROM held JOIN pg_catalog.pg_class c USING (oid)
    WHERE c.relkind = 'p' AND ARRAY(SELECT child FROM children WHERE parent = c.oid ORDER BY child)
        <> ARRAY(SELECT child FROM partitions WHERE parent = c.oid AND direct ORDER BY child)
),
other_columns AS (
    SELECT DISTINCT a.attrelid AS oid
    FROM pg_catalog.pg_attribute a,
        LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, a.attrelid, 0) relation,
        LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, a.attrelid, a.attnum) now
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
        AND now.identity IS DISTINCT FROM pg_catalog.format('%s.%I', relation.identity, a.attname)
),
other_children AS (
    SELECT DISTINCT c.oid
    FROM held JOIN pg_catalog.pg_class c USING (oid) JOIN children ON parent = c.oid
    WHERE c.relkind IN ('r', 'f') AND child NOT IN (SELECT oid FROM held)
),
scanned AS (
    SELECT DISTINCT s.alias, c.oid
    FROM unnest($2::text[], $3::text[], $4::text[]) s (alias, schema, name)
    JOIN pg_catalog.pg_namespace n ON n.nspname = s.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.name
),
lineage AS (
    SELECT alias, oid, oid AS ancestor FROM scanned
  UNION
    SELECT alias, oid, parent FROM lineage JOIN children ON child = ancestor
),
totals AS (SELECT alias, pg_catalog.count(*) AS scans FROM scanned GROUP BY alias),
several_trees AS (
    SELECT alias FROM totals
    WHERE NOT EXISTS (
        SELECT FROM lineage WHERE lineage.alias = totals.alias
        GROUP BY ancestor HAVING pg_catalog.count(DISTINCT oid) = totals.scans
    )
)
SELECT
    ARRAY(
        SELECT pg_catalog.concat(oid::regclass, ' has other partitions') FROM other_partitions
      UNION ALL
        SELECT pg_catalog.concat(oid::regclass, ' has other columns') FROM other_columns
    ) AS definite,
    ARRAY(
        SELECT pg_catalog.concat(oid::regclass, ' has other children') FROM other_children
      UNION ALL
        SELECT pg_catalog.concat(alias, ' reads relations of several trees') FROM several_trees
    ) AS doubtful,
    ARRAY(SELECT oid FROM held UNION SELECT child FROM partitions) AS held
