-- Completed exports whose time is over.
SELECT id FROM streamer.exports
WHERE state = 'completed' AND removed_at IS NULL AND finished_at < clock_timestamp() - $1::interval
