-- Queues the given orphans ($3), if they still are orphans. SKIP LOCKED, because another server may do the same.
UPDATE streamer.exports
SET state = 'pending', server_id = NULL, lease_until = NULL, not_before = NULL,
    bytes = 0, processed_rows = 0, snapshot_at = NULL
WHERE id IN (
    SELECT id FROM streamer.exports
    WHERE state = 'processing' AND (lease_until < clock_timestamp() OR server_id = ANY($1::uuid[]))
      AND NOT served AND attempts < $2 AND id = ANY($3::uuid[])
    FOR UPDATE SKIP LOCKED
)
RETURNING id
