-- What a restart, a retry and retention need to know of an export.
ALTER TABLE streamer.exports
    ADD COLUMN attempts        integer NOT NULL DEFAULT 0,      -- runs that have begun
    ADD COLUMN served          boolean NOT NULL DEFAULT false,  -- a byte has left: the bytes of this id are fixed
    ADD COLUMN not_before      timestamptz,                     -- a run that failed is not begun again at once
    ADD COLUMN used_at         timestamptz,                     -- the last download, to the minute
    ADD COLUMN idempotency_key text UNIQUE;

CREATE INDEX exports_kept ON streamer.exports (finished_at) WHERE state = 'completed' AND removed_at IS NULL;
