-- An expression: true, or an error before the first row of its statement if a relation of a user is locked that is not
-- in {known}. The value that is no boolean depends on a row, so that the planner does not evaluate it.
(SELECT CASE WHEN pg_catalog.count(*) = 0 THEN true
    ELSE pg_catalog.concat('{mark}: ', pg_catalog.min(oid))::pg_catalog.bool END
FROM ({held}) held WHERE oid >= {first_user_oid} AND oid <> ALL ({known}))
