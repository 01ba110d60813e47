-- The shape of the relation that has the name $1 now, in a session of any user; $2 is the role, NULL for the user.
SELECT {shape}
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)
