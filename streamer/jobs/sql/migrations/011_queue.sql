-- `principal` names the client that an export belongs to; `open` is everybody without a key. An idempotency key is unique
-- for its principal. Older versions do not match this index: stop their servers first.
ALTER TABLE streamer.exports
    ADD COLUMN principal   text NOT NULL DEFAULT 'open',
    ADD COLUMN link_secret bytea,  -- signs the links to this export
    ADD COLUMN webhooks    text[], -- the endpoints that are told of its end
    ADD COLUMN epoch       bigint NOT NULL DEFAULT 0; -- raised by each claim: the statements of an older run find no row
ALTER TABLE streamer.exports DROP CONSTRAINT exports_idempotency_key_key;
CREATE UNIQUE INDEX exports_by_key ON streamer.exports (principal, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX exports_unfinished_of ON streamer.exports (principal, state) WHERE state IN ('pending', 'processing');
CREATE INDEX exports_by_principal ON streamer.exports (principal, created_at, id);
CREATE INDEX exports_started ON streamer.exports (principal, started_at); -- the last start of each principal
