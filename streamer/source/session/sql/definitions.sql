-- One hash of the versions of all catalog rows that define some relations ($1). xmin is the transaction that wrote a
-- version, so the hash differs if anything was changed: by TRUNCATE, ALTER, RENAME and CLUSTER, by another definition
-- of a view, by a row policy, by a partition that was attached. ANALYZE and VACUUM write no new versions of these rows.
SELECT pg_catalog.hashtextextended(
    pg_catalog.string_agg(pg_catalog.concat_ws(' ', kind, key, version), ',' ORDER BY kind, key, version), 0
)
FROM (
    SELECT 'relation' AS kind, oid::text COLLATE "C" AS key, xmin::text COLLATE "C" AS version
    FROM pg_catalog.pg_class WHERE oid = ANY ($1::oid[])
  UNION ALL
    SELECT 'schema', n.oid::text, n.xmin::text
    FROM pg_catalog.pg_namespace n
    WHERE n.oid IN (SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = ANY ($1::oid[]))
  UNION ALL
    SELECT 'column', pg_catalog.concat_ws(' ', attrelid, attnum), xmin::text
    FROM pg_catalog.pg_attribute WHERE attrelid = ANY ($1::oid[]) AND attnum > 0
  UNION ALL
    SELECT 'default', oid::text, xmin::text FROM pg_catalog.pg_attrdef WHERE adrelid = ANY ($1::oid[])
  UNION ALL
    SELECT 'rule', oid::text, xmin::text FROM pg_catalog.pg_rewrite WHERE ev_class = ANY ($1::oid[])
  UNION ALL
    SELECT 'policy', oid::text, xmin::text FROM pg_catalog.pg_policy WHERE polrelid = ANY ($1::oid[])
  UNION ALL
    SELECT 'partitioned', partrelid::text, xmin::text
    FROM pg_catalog.pg_partitioned_table WHERE partrelid = ANY ($1::oid[])
  UNION ALL
    SELECT 'child', pg_catalog.concat_ws(' ', inhparent, inhrelid), xmin::text
    FROM pg_catalog.pg_inherits WHERE inhparent = ANY ($1::oid[]) OR inhrelid = ANY ($1::oid[])
) AS versions
