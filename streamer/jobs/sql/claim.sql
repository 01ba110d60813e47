-- The oldest waiting export of this owner. Two claims at once never get the same row.
UPDATE streamer.exports
SET state = 'processing', started_at = clock_timestamp()
WHERE id = (
    SELECT id FROM streamer.exports
    WHERE state = 'pending' AND owner = $1
    ORDER BY created_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING *
