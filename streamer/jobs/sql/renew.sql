-- Only what this server_id holds, and as it holds it: a row of its own that nobody here works on is found by its lease.
UPDATE streamer.exports
SET lease_until = clock_timestamp() + $2
WHERE server_id = $1 AND (state = 'pending' AND id = ANY($3::uuid[]) OR state = 'processing' AND id = ANY($4::uuid[]))
