-- No row if the export was cancelled meanwhile.
UPDATE streamer.exports
SET state = 'processing', epoch = epoch + 1, server_id = $2, lease_until = clock_timestamp() + $3, folder = $4,
    started_at = coalesce(started_at, clock_timestamp()), attempts = attempts + 1, not_before = NULL
WHERE id = $1 AND state = 'pending'
RETURNING *
