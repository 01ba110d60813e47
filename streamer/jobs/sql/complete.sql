UPDATE streamer.exports
SET state = 'completed', finished_at = clock_timestamp(),
    total_rows = $4, processed_rows = $4, bytes = $5, sha256 = $6, rows_per_second = $7,
    estimated = false, percentage = 100, truncated = $8, snapshot_at = $9
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state = 'processing'
RETURNING id
