-- What was served ($5 bytes with the digest $6) can be proven when it is made again.
WITH failed AS (
    UPDATE streamer.representations
    SET state = 'failed', error = $8, bytes = $5, sha256 = $6, flushes = $7
    WHERE export_id = $1 AND coding = $2 AND server_id = $3 AND generation = $4 AND state = 'processing'
    RETURNING export_id, coding
), in_the_row AS (
    DELETE FROM streamer.flushes USING failed
    WHERE flushes.export_id = failed.export_id AND flushes.coding = failed.coding
)
SELECT export_id FROM failed
