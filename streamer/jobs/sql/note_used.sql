UPDATE streamer.exports
SET used_at = clock_timestamp()
WHERE id = $1 AND coalesce(used_at < clock_timestamp() - interval '1 minute', true)
