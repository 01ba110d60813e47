-- The relations of a plan (schemas $1, names $2) in their order, their size in blocks, and whether each can be read by
-- blocks, under its own name, as the query of the relation $3 reads it. Row policies and virtual generated columns are
-- those of the relation that a query names: a partition has other ones than the table that it belongs to.
SELECT n.nspname AS schema, c.relname AS name, c.oid,
       (pg_relation_size(c.oid) / current_setting('block_size')::int) AS blocks,
       am.amname = 'heap' AND c.relispopulated
           AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
           AND (c.oid = whole.oid OR NOT (c.relrowsecurity OR whole.relrowsecurity OR EXISTS (
               SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v'
           ))) AS readable
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS scanned (schema, name, place)
JOIN pg_namespace n ON n.nspname = scanned.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = scanned.name
JOIN pg_am am ON am.oid = c.relam
JOIN pg_class whole ON whole.oid = to_regclass($3)
ORDER BY place
