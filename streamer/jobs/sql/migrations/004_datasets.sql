-- Whether a limit has cut rows; known when the export is completed.
ALTER TABLE streamer.exports ADD COLUMN truncated boolean NOT NULL DEFAULT false;
