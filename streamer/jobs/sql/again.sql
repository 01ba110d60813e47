-- A run that failed for a reason that time can heal begins anew under the same id, if nobody has a byte of it yet.
UPDATE streamer.exports
SET state = 'pending', not_before = clock_timestamp() + $3, bytes = 0, processed_rows = 0, snapshot_at = NULL,
    percentage = greatest(percentage, $5)
WHERE id = $1 AND server_id = $2 AND state = 'processing' AND NOT served AND attempts < $4
RETURNING *
