-- What belongs to an export and not to its rows. `label_folded` is the label as it is searched: case-folded by the server,
-- because lower() of a database with locale C knows only ASCII.
ALTER TABLE streamer.exports
    ADD COLUMN label        text,
    ADD COLUMN label_folded text COLLATE "C",
    ADD COLUMN ttl          interval; -- how long the file stays once it is completed; null: the server's EXPORT_TTL

-- What has a time of its own in a folder. Only a timestamp without a time zone has a sum that is immutable.
CREATE INDEX exports_own_ttl ON streamer.exports (folder, ((finished_at AT TIME ZONE 'UTC') + ttl))
    WHERE state = 'completed' AND removed_at IS NULL AND ttl IS NOT NULL;

-- A search reads only what has a label.
CREATE INDEX exports_labelled ON streamer.exports (created_at, id) WHERE label_folded IS NOT NULL;

-- What has no file any more, oldest first. An index gives an order for a folder that equals, not for one that is null.
CREATE INDEX exports_gone ON streamer.exports
    (coalesce(folder, '00000000-0000-0000-0000-000000000000'), coalesce(removed_at, finished_at), id)
    WHERE state IN ('failed', 'cancelled') OR state = 'completed' AND removed_at IS NOT NULL;
