-- The idempotency key of an export is deleted with its row.
DELETE FROM streamer.exports
WHERE id = ANY($1::uuid[]) AND (state IN ('failed', 'cancelled') OR state = 'completed' AND removed_at IS NOT NULL)
RETURNING id
