-- A run that met a temporary failure begins again under the same id, on any server, if no byte of it was served.
UPDATE streamer.exports
SET state = 'pending', server_id = NULL, lease_until = NULL, not_before = clock_timestamp() + $4,
    bytes = 0, processed_rows = 0, snapshot_at = NULL, percentage = greatest(percentage, $6)
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state = 'processing' AND NOT served AND attempts < $5
RETURNING id
