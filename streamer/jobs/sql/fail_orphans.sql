-- Exports of dead servers that cannot be run again: a byte was served, or every attempt was used.
UPDATE streamer.exports
SET state = 'failed', finished_at = clock_timestamp(),
    error = CASE WHEN served THEN $1 ELSE $2 END
WHERE state = 'processing' AND (lease_until < clock_timestamp() OR server_id = ANY($3::uuid[]))
  AND (served OR attempts >= $4) AND id <> ALL($5::uuid[])
RETURNING *
