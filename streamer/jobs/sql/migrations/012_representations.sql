-- The compressed forms of an export: one row for each coding that a client has asked for. `coder` names the library, its
-- version and level, because others give other bytes. With it and the offsets of its flushes (packed differences) the
-- same bytes can be made again, and `sha256` of the first `bytes` bytes proves that they are the same.
CREATE TABLE streamer.representations (
    export_id    uuid NOT NULL REFERENCES streamer.exports ON DELETE CASCADE,
    coding       text NOT NULL,
    generation   integer NOT NULL DEFAULT 1,      -- raised if the same bytes cannot be made again
    state        text NOT NULL CHECK (state IN ('processing', 'completed', 'failed')),
    coder        text NOT NULL,
    server_id    uuid NOT NULL,                   -- the process that makes it, or made it
    lease_until  timestamptz NOT NULL,
    folder       uuid NOT NULL,                   -- of its file
    bytes        bigint NOT NULL DEFAULT 0,
    sha256       bytea,                           -- null: nothing is known about bytes that were served
    flushes      bytea,
    error        text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,                     -- when it was completed for the first time
    used_at      timestamptz,                     -- the last download, to the minute
    removed_at   timestamptz,                     -- its file; it can be made again
    PRIMARY KEY (export_id, coding)
);

-- Where a representation that is being made has been flushed: noted before the bytes are sent, so that they can be made again
-- if the server dies. Once it is completed, its row has them.
CREATE TABLE streamer.flushes (
    export_id    uuid NOT NULL,
    coding       text NOT NULL,
    generation   integer NOT NULL,
    position     bigint NOT NULL,                 -- in the CSV
    PRIMARY KEY (export_id, coding, generation, position),
    FOREIGN KEY (export_id, coding) REFERENCES streamer.representations ON DELETE CASCADE
);

-- A server may run as a role that has rights on the older tables alone.
DO $$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE grantee WHEN 'PUBLIC' THEN grantee ELSE quote_ident(grantee) END
        FROM information_schema.table_privileges
        WHERE table_schema = 'streamer' AND table_name = 'exports' AND privilege_type = 'UPDATE'
    LOOP
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON streamer.representations, streamer.flushes TO %s', role
        );
    END LOOP;
END
$$;

CREATE INDEX representations_least_used ON streamer.representations
    (folder, greatest(finished_at, used_at), export_id, coding) WHERE state = 'completed' AND removed_at IS NULL;
