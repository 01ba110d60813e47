-- Queues the given orphans ($5) here, if they still are orphans. SKIP LOCKED, because another server may do the same.
UPDATE streamer.exports
SET state = 'pending', server_id = $1, lease_until = clock_timestamp() + $2, not_before = NULL,
    bytes = 0, processed_rows = 0, snapshot_at = NULL
WHERE id IN (
    SELECT id FROM streamer.exports
    WHERE state IN ('pending', 'processing') AND (lease_until < clock_timestamp() OR server_id = ANY($3::uuid[]))
      AND NOT served AND attempts < $4 AND id = ANY($5::uuid[])
    ORDER BY created_at
    FOR UPDATE SKIP LOCKED
)
RETURNING *
