UPDATE streamer.representations SET used_at = clock_timestamp()
WHERE export_id = $1 AND coding = $2 AND (used_at IS NULL OR used_at < clock_timestamp() - interval '1 minute')
RETURNING export_id
