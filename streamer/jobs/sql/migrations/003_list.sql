-- The list of exports is read from the newest on, page by page.
CREATE INDEX exports_by_age ON streamer.exports (created_at, id);
