-- Exports of dead servers (known to be dead, or with an expired lease) of which no byte was served. Those that run here
-- ($3) are excluded, and so are requests of a newer version, which this one cannot run.
SELECT id, spec, spec_version FROM streamer.exports
WHERE state = 'processing' AND (lease_until < clock_timestamp() OR server_id = ANY($1::uuid[]))
  AND NOT served AND attempts < $2 AND id <> ALL($3::uuid[]) AND spec_version <= $4
