-- Which database a folder of spools belongs to: the folder has this id in a file.
CREATE TABLE streamer.identity (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
INSERT INTO streamer.identity DEFAULT VALUES;
GRANT SELECT ON streamer.identity TO PUBLIC; -- a server may run as a role that has rights on the older tables alone

-- The folder that the file of an export lies in; null until it is run, and in rows of older versions.
ALTER TABLE streamer.exports ADD COLUMN folder uuid;

-- What has expired in a folder, and what of it was not used for the longest.
DROP INDEX streamer.exports_kept;
CREATE INDEX exports_kept ON streamer.exports (folder, finished_at) WHERE state = 'completed' AND removed_at IS NULL;
CREATE INDEX exports_least_used ON streamer.exports (folder, greatest(finished_at, used_at), id)
    WHERE state = 'completed' AND removed_at IS NULL;
