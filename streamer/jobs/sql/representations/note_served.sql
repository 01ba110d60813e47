-- What a dead server has left of the file, before another one takes its place.
UPDATE streamer.representations
SET bytes = $5, sha256 = $6, flushes = $7
WHERE export_id = $1 AND coding = $2 AND server_id = $3 AND generation = $4 AND state = 'processing'
RETURNING export_id
