-- Exports that wait in a folder without a live server are moved to this folder ($1).
UPDATE streamer.exports
SET folder = $1
WHERE state = 'pending' AND folder <> $1 AND spec_version <= $3 AND NOT EXISTS (
    SELECT FROM streamer.servers WHERE servers.folder = exports.folder AND beat_at > clock_timestamp() - $2::interval
)
RETURNING id
