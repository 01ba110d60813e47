-- Of the files found in this folder ($1), those that no download can need: the row says that the file is removed, or the
-- export is written in another folder and this is a part that an earlier run has left here. A file without a row stays:
-- it may not be this server's. A file stays, too, if the state of its row is of a newer version.
SELECT id FROM streamer.exports JOIN unnest($2::uuid[], $3::bigint[]) AS found (id, size) USING (id)
WHERE removed_at IS NOT NULL OR state IN ('failed', 'cancelled')
   OR folder <> $1 AND (state = 'processing' OR state = 'completed' AND bytes <> size)
