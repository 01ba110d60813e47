-- Completed exports, those first that nobody has asked for the longest.
SELECT id FROM streamer.exports
WHERE state = 'completed' AND removed_at IS NULL
ORDER BY greatest(finished_at, used_at)
