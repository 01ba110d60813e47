UPDATE streamer.exports
SET lease_until = clock_timestamp() + $2
WHERE owner = $1 AND state IN ('pending', 'processing')
