-- No row if this server may not run the export any more: it was cancelled through another server, or its lease was lost.
-- The next note repeats all of this, so the commit does not wait for the disk: it would hold the lock of the row, which
-- the note before the first byte of a download waits for.
UPDATE streamer.exports
SET snapshot_at = $4, waiting_for = NULL, total_rows = $5, processed_rows = $6, bytes = $7,
    percentage = greatest(percentage, $8), rows_per_second = $9
FROM (SELECT pg_catalog.set_config('synchronous_commit', 'off', true)) AS commit
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state = 'processing'
RETURNING id
