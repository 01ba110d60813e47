-- Exports whose owner has died: nobody renews their lease.
UPDATE streamer.exports
SET state = 'failed', finished_at = clock_timestamp(), error = $1
WHERE state IN ('pending', 'processing') AND lease_until < clock_timestamp()
RETURNING *
