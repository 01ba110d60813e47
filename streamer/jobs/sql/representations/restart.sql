-- The next generation: other bytes than those that were served.
UPDATE streamer.representations
SET generation = generation + 1, coder = $4, bytes = 0, sha256 = NULL, flushes = NULL, finished_at = NULL
WHERE export_id = $1 AND coding = $2 AND server_id = $3 AND state = 'processing'
RETURNING *
