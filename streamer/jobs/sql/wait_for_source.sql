-- A run that got no snapshot has read nothing: the export waits for the source, and no attempt is counted.
UPDATE streamer.exports
SET state = 'pending', server_id = NULL, lease_until = NULL, waiting_for = 'source', not_before = clock_timestamp() + $4,
    attempts = attempts - 1, started_at = CASE WHEN attempts > 1 THEN started_at END,
    bytes = 0, processed_rows = 0, snapshot_at = NULL
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state = 'processing' AND NOT served
RETURNING id
