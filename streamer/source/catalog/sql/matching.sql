-- A condition of relations.sql: those of the schema $1 whose names match $2, in the order of their names.
n.nspname = $1 AND c.relname LIKE $2 AND NOT c.relispartition
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
ORDER BY c.relname
