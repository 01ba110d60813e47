-- Of the exports given, those whose file must stay. A state of a newer version is none of those that need no file.
SELECT id FROM streamer.exports
WHERE id = ANY($1::uuid[]) AND removed_at IS NULL AND state NOT IN ('failed', 'cancelled')
