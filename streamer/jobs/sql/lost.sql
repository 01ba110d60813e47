-- Of the exports that wait here ($2), those that have ended, or are run by another server.
SELECT id, state FROM streamer.exports
WHERE id = ANY($2::uuid[]) AND (state = 'processing' AND server_id <> $1 OR state NOT IN ('pending', 'processing'))
