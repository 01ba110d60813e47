-- What the snapshot of a session sees: its moment (none if the snapshot is another session's), its transaction and
-- process, the shape of the relation with the oid $1 (NULL if there is none), and the relations locked so far.
SELECT nullif(pg_catalog.current_setting('streamer.snapshot_at', true), '')::pg_catalog.timestamptz AS taken_at,
    pg_catalog.now() AS began_at, pg_catalog.pg_backend_pid() AS process,
    (SELECT {shape} FROM pg_catalog.pg_class c WHERE c.oid = $1) AS shape,
    ARRAY(SELECT oid FROM ({held}) held WHERE oid >= {first_user_oid}) AS locked
