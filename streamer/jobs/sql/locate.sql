-- Rows of older versions do not name their folder: it is the one in which the file was found.
UPDATE streamer.exports SET folder = $1 WHERE id = ANY($2::uuid[]) AND folder IS NULL AND state = 'completed'
