WITH completed AS (
    UPDATE streamer.representations
    SET state = 'completed', bytes = $5, sha256 = $6, flushes = $7,
        finished_at = coalesce(finished_at, clock_timestamp()), used_at = clock_timestamp()
    WHERE export_id = $1 AND coding = $2 AND server_id = $3 AND generation = $4 AND state = 'processing'
    RETURNING *
), in_the_row AS (
    DELETE FROM streamer.flushes USING completed
    WHERE flushes.export_id = completed.export_id AND flushes.coding = completed.coding
)
SELECT * FROM completed
