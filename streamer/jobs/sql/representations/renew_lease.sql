UPDATE streamer.representations
SET lease_until = clock_timestamp() + $5::interval
WHERE export_id = $1 AND coding = $2 AND server_id = $3 AND generation = $4 AND state = 'processing'
RETURNING export_id
