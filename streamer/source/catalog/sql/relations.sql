-- The relations that fulfil {condition}, with the properties of a dataset. The planner has no number of rows for a
-- view, and -1 for a table that was never analyzed: both are NULL.
SELECT c.oid, {shape} AS shape,
       CASE WHEN c.relkind NOT IN ('r', 'p', 'v') THEN NULL
            WHEN pg_catalog.has_table_privilege(SESSION_USER, c.oid, 'SELECT') THEN '{by_user}'
            WHEN pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN '{by_role}'
       END AS locker,
       n.nspname AS schema, c.relname AS name, c.relkind IN ('r', 'p', 'm') AS stores_rows,
       pg_catalog.concat_ws('.', pg_catalog.quote_ident(n.nspname), pg_catalog.quote_ident(c.relname))
           AS qualified_name,
       (CASE c.relkind
           WHEN 'v' THEN NULL
           WHEN 'f' THEN nullif(greatest(c.reltuples, 0), 0)
           WHEN 'p' THEN (
               SELECT sum(nullif(leaf.reltuples, -1))
               FROM pg_catalog.pg_partition_tree(c.oid) part JOIN pg_catalog.pg_class leaf ON leaf.oid = part.relid
               WHERE part.isleaf
           )
           ELSE nullif(c.reltuples, -1)
       END)::pg_catalog.int8 AS estimated_rows
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {condition}
