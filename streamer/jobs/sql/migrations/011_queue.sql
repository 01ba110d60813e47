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

-- An export that waits belongs to no server, and has no lease.
ALTER TABLE streamer.exports ALTER COLUMN server_id DROP NOT NULL, ALTER COLUMN lease_until DROP NOT NULL;
UPDATE streamer.exports SET server_id = NULL, lease_until = NULL WHERE state = 'pending';

-- The servers that are alive. Each writes `beat_at`, and holds the advisory lock `lock_key` on a session of its own, if it
-- can have one.
CREATE TABLE streamer.servers (
    id       uuid PRIMARY KEY,
    url      text, -- where other servers reach it
    lock_key integer,
    folder   uuid NOT NULL, -- of its spools
    beat_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON streamer.servers TO PUBLIC; -- as for streamer.identity

-- Every change of a state is announced when it is committed.
CREATE FUNCTION streamer.announce_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('streamer', NEW.id || ' ' || NEW.state);
    RETURN NULL;
END $$;
CREATE TRIGGER announce_state AFTER INSERT OR UPDATE OF state ON streamer.exports
    FOR EACH ROW EXECUTE FUNCTION streamer.announce_state();
