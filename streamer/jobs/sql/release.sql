-- This server stops: an export of which no byte was served waits for any server, without an attempt lost.
UPDATE streamer.exports
SET state = 'pending', server_id = NULL, lease_until = NULL, attempts = attempts - 1,
    bytes = 0, processed_rows = 0, snapshot_at = NULL, percentage = greatest(percentage, $4)
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state = 'processing' AND NOT served
RETURNING id
