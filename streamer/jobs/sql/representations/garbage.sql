-- Of the compressed files found in this folder ($1), those that no download can need: the export is gone, the file was
-- removed, it was made in another folder, or its making failed in a way that has left what is needed to make it again.
-- A file without a row of its export stays: it may not be this server's.
SELECT found.export_id, found.coding
FROM unnest($2::uuid[], $3::text[]) AS found (export_id, coding)
JOIN streamer.exports ON exports.id = found.export_id
LEFT JOIN streamer.representations USING (export_id, coding)
WHERE exports.removed_at IS NOT NULL OR exports.state IN ('failed', 'cancelled')
   OR representations.export_id IS NULL
   OR representations.removed_at IS NOT NULL OR representations.folder <> $1
   OR representations.state = 'failed' AND representations.sha256 IS NOT NULL
