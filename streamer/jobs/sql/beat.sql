INSERT INTO streamer.servers (id, folder) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp()
