-- Completed representations in this folder, least recently used first, after a place in that order, except those of
-- exports that are being downloaded ($5).
SELECT export_id, coding, greatest(finished_at, used_at) AS used_at FROM streamer.representations
WHERE state = 'completed' AND removed_at IS NULL AND folder = $1
  AND (greatest(finished_at, used_at), export_id, coding) > (coalesce($2, '-infinity'::timestamptz), $3::uuid, $4::text)
  AND export_id <> ALL($5::uuid[])
ORDER BY greatest(finished_at, used_at), export_id, coding
LIMIT $6
