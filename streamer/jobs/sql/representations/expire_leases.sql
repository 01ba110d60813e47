-- Those of servers that are known to be dead may be taken over at once.
UPDATE streamer.representations
SET lease_until = '-infinity'
WHERE state = 'processing' AND server_id = ANY($1::uuid[])
RETURNING export_id
