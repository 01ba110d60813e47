-- Only the exports that this server knows to run. A row of its own that it does not work on is left to expire, and is
-- recovered then.
UPDATE streamer.exports
SET lease_until = clock_timestamp() + $2
WHERE server_id = $1 AND state = 'processing' AND id = ANY($3::uuid[])
