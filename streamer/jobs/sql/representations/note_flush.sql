INSERT INTO streamer.flushes (export_id, coding, generation, position)
SELECT export_id, coding, generation, $5 FROM streamer.representations
WHERE export_id = $1 AND coding = $2 AND server_id = $3 AND generation = $4 AND state = 'processing'
ON CONFLICT DO NOTHING
RETURNING position
