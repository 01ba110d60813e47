-- Exports whose server_id is dead, known to be or because nobody renews their lease, and of which nobody has a byte. What
-- runs here ($3) is not dead; what a newer version asks for is not ours to run.
SELECT id, spec, spec_version FROM streamer.exports
WHERE state IN ('pending', 'processing') AND (lease_until < clock_timestamp() OR server_id = ANY($1::uuid[]))
  AND NOT served AND attempts < $2 AND id <> ALL($3::uuid[]) AND spec_version <= $4
