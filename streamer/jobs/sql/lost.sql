-- Of the exports that wait here, those that have ended or belong to another server.
SELECT id FROM streamer.exports
WHERE id = ANY($2::uuid[]) AND (server_id <> $1 OR state NOT IN ('pending', 'processing'))
