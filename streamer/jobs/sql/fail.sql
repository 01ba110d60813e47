-- Only a run of this server; a run that another server has taken over is settled there.
UPDATE streamer.exports
SET state = 'failed', finished_at = clock_timestamp(), error = $3, percentage = greatest(percentage, $4)
WHERE id = $1 AND server_id = $2 AND state = 'processing'
RETURNING id
