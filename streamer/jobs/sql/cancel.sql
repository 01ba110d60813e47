UPDATE streamer.exports
SET state = 'cancelled', finished_at = clock_timestamp(), removed_at = clock_timestamp(),
    percentage = greatest(percentage, $2)
WHERE id = $1 AND state IN ('pending', 'processing') AND ($3::text IS NULL OR principal = $3)
RETURNING *
