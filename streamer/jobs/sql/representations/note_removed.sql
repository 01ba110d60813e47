-- Of the representations given, those whose file was not removed before.
UPDATE streamer.representations
SET removed_at = clock_timestamp()
FROM unnest($1::uuid[], $2::text[]) AS removed (export_id, coding)
WHERE representations.export_id = removed.export_id AND representations.coding = removed.coding
  AND state = 'completed' AND removed_at IS NULL
RETURNING representations.export_id, representations.coding
