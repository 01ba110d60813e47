UPDATE streamer.exports
SET state = 'completed', finished_at = clock_timestamp(),
    total_rows = $3, processed_rows = $3, bytes = $4, sha256 = $5, rows_per_second = $6,
    estimated = false, percentage = 100, truncated = $7, snapshot_at = $8
WHERE id = $1 AND server_id = $2 AND state = 'processing'
RETURNING id
