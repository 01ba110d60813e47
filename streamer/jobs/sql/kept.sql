-- Of the exports given, those whose file must stay.
SELECT id FROM streamer.exports
WHERE id = ANY($1::uuid[]) AND removed_at IS NULL AND state IN ('pending', 'processing', 'completed')
