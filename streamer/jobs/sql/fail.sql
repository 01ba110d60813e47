-- Only this run: one that was taken over is settled where it runs now.
UPDATE streamer.exports
SET state = 'failed', finished_at = clock_timestamp(), error = $4, percentage = greatest(percentage, $5)
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state = 'processing'
RETURNING id
