-- An expression: the shape of the relation `c` for the role {user}, a hash of its identity and its columns.
-- has_column_privilege is a part of it because the catalog offers only the columns that the role may read.
pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', c.oid, c.relkind, (
    SELECT pg_catalog.string_agg(pg_catalog.concat_ws(
        ' ', a.attnum, pg_catalog.quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated,
        pg_catalog.has_column_privilege({user}, c.oid, a.attnum, 'SELECT')
    ), ',' ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
)), 0)
