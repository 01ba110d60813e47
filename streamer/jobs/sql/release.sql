-- This server stops: an export of which no byte was served waits for the next server, without an attempt lost.
UPDATE streamer.exports
SET state = 'pending', lease_until = clock_timestamp(), not_before = NULL,
    bytes = 0, processed_rows = 0, snapshot_at = NULL, percentage = greatest(percentage, $4),
    attempts = attempts - CASE state WHEN 'processing' THEN 1 ELSE 0 END
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state IN ('pending', 'processing') AND NOT served
RETURNING id
