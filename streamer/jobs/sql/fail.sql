-- A run that is this server_id's; one that has been left to others meanwhile is theirs.
UPDATE streamer.exports
SET state = 'failed', finished_at = clock_timestamp(), error = $3, percentage = greatest(percentage, $4)
WHERE id = $1 AND server_id = $2 AND state = 'processing'
RETURNING *
