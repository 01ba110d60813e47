-- The column names the server process that holds the lease. Older versions use the old name: stop their servers first.
ALTER TABLE streamer.exports RENAME COLUMN owner TO server_id;
