-- Of the finished exports given, those whose file was not removed before.
UPDATE streamer.exports
SET removed_at = clock_timestamp()
WHERE id = ANY($1::uuid[]) AND removed_at IS NULL AND state IN ('completed', 'failed', 'cancelled')
RETURNING id
