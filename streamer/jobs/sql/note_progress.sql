-- No row if this server may not run the export any more: it was cancelled through another server, or its lease was lost.
-- The next note repeats all of this, so the commit does not wait for the disk: it would hold the lock of the row, which
-- the note before the first byte of a download waits for.
UPDATE streamer.exports
SET snapshot_at = $3, waiting_for = NULL, total_rows = $4, processed_rows = $5, bytes = $6,
    percentage = greatest(percentage, $7), rows_per_second = $8
FROM (SELECT pg_catalog.set_config('synchronous_commit', 'off', true)) AS commit
WHERE id = $1 AND server_id = $2 AND state = 'processing'
RETURNING id
