UPDATE streamer.exports
SET removed_at = clock_timestamp()
WHERE id = $1 AND removed_at IS NULL AND state IN ('completed', 'failed', 'cancelled')
