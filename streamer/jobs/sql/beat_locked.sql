-- The same, by a server that holds its lock ($3).
INSERT INTO streamer.servers (id, folder, lock_key) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp(), lock_key = $3
