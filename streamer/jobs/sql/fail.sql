UPDATE streamer.exports
SET state = 'failed', finished_at = clock_timestamp(), error = $3
WHERE id = $1 AND owner = $2 AND state IN ('pending', 'processing')
RETURNING *
