-- Of some relations ($1) those that still have the names ($2) by which they were restricted.
SELECT oid
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.text[]))
    AS given (oid, name)
WHERE pg_catalog.to_regclass(name) = oid
