-- The connections that the role of this session may still open to this database: the least that a limit leaves.
-- Limits of a role and of a database do not apply to superusers; NULL is no limit.
SELECT LEAST(
    pg_catalog.current_setting('max_connections')::pg_catalog.int8
        - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8
        - COALESCE(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int8
        - (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database),
    CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN
        rolconnlimit - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE usesysid = role.oid)
    END,
    CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN
        datconnlimit - pg_catalog.pg_stat_get_db_numbackends(current.oid)
    END
)::pg_catalog.int8
FROM pg_catalog.pg_roles AS role, pg_catalog.pg_database AS current
WHERE role.rolname = SESSION_USER AND current.datname = pg_catalog.current_database()
