-- The oldest of the exports that wait here ($2) and may begin. Two claims at once never get the same row. A row that is
-- locked, because its lease is being renewed, is waited for: skipping it would break the order of the queue.
UPDATE streamer.exports
SET state = 'processing', epoch = epoch + 1, started_at = coalesce(started_at, clock_timestamp()), attempts = attempts + 1,
    lease_until = clock_timestamp() + $3, folder = $4
WHERE id = (
    SELECT id FROM streamer.exports
    WHERE state = 'pending' AND server_id = $1 AND id = ANY($2::uuid[]) AND coalesce(not_before <= clock_timestamp(), true)
    ORDER BY created_at
    LIMIT 1
    FOR UPDATE
)
RETURNING *
