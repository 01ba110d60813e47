-- An expression: true, or an error before the first row of its statement if the name {relation} has become that of
-- another relation than {oid}. To rename a schema needs no lock on the tables in it.
(SELECT CASE WHEN pg_catalog.to_regclass({relation}) = {oid}::pg_catalog.oid THEN true
    ELSE pg_catalog.concat('{mark}: ', pg_catalog.pg_backend_pid())::pg_catalog.bool END)
