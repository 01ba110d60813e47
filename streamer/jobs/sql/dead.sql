-- Servers that have lost their lock (of class $1), and have not written a beat for $2. They are forgotten, and come back with
-- their next beat.
DELETE FROM streamer.servers
WHERE lock_key IS NOT NULL AND beat_at < clock_timestamp() - $2::interval AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND classid = $1::oid AND objid = servers.lock_key::oid AND objsubid = 2 AND granted
      AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
)
RETURNING id
