-- A request of a newer version is left to servers that can read it: the version is known without reading it.
ALTER TABLE streamer.exports ADD COLUMN spec_version integer NOT NULL DEFAULT 1;

-- What is not known yet is 0, and estimated.
UPDATE streamer.exports SET total_rows = 0 WHERE total_rows IS NULL;
ALTER TABLE streamer.exports ALTER COLUMN total_rows SET DEFAULT 0, ALTER COLUMN total_rows SET NOT NULL;
