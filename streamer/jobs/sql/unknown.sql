-- Of the exports whose files were found, those that have no row.
SELECT found.id FROM unnest($1::uuid[]) AS found (id)
WHERE NOT EXISTS (SELECT FROM streamer.exports WHERE exports.id = found.id)
