-- The session of this server is lost: it is judged by the leases of its exports.
UPDATE streamer.servers SET lock_key = NULL WHERE id = $1
