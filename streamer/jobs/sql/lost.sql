-- Of the exports that wait here, those that have ended, or are another owner's now.
SELECT id FROM streamer.exports
WHERE id = ANY($2::uuid[]) AND (owner <> $1 OR state NOT IN ('pending', 'processing'))
