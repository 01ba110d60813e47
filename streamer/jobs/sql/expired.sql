-- Completed exports in this folder whose time is over, but for those that are being downloaded ($3).
SELECT id FROM streamer.exports
WHERE state = 'completed' AND removed_at IS NULL AND folder = $1 AND finished_at < clock_timestamp() - $2::interval
  AND id <> ALL($3::uuid[])
ORDER BY finished_at
LIMIT $4
