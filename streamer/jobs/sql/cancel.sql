UPDATE streamer.exports
SET state = 'cancelled', finished_at = clock_timestamp(), removed_at = clock_timestamp(),
    percentage = greatest(percentage, $2)
WHERE id = $1 AND state IN ('pending', 'processing')
RETURNING *
