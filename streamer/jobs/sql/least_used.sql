-- Completed exports in this folder, least recently used first, after a place in that order, except those that are being
-- downloaded ($4).
SELECT id, greatest(finished_at, used_at) AS used_at FROM streamer.exports
WHERE state = 'completed' AND removed_at IS NULL AND folder = $1
  AND (greatest(finished_at, used_at), id) > (coalesce($2, '-infinity'::timestamptz), $3::uuid)
  AND id <> ALL($4::uuid[])
ORDER BY greatest(finished_at, used_at), id
LIMIT $5
