-- One row per export. The row is the truth about the state; the file's size is the truth about the length.
CREATE TABLE streamer.exports (
    id               uuid PRIMARY KEY,
    state            text NOT NULL CHECK (state IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    spec             text NOT NULL,
    owner            uuid NOT NULL,
    lease_until      timestamptz NOT NULL,
    total_rows       bigint,
    estimated        boolean NOT NULL DEFAULT true,
    processed_rows   bigint NOT NULL DEFAULT 0,
    bytes            bigint NOT NULL DEFAULT 0,
    percentage       double precision NOT NULL DEFAULT 0,
    rows_per_second  bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at       timestamptz,
    finished_at      timestamptz,
    snapshot_at      timestamptz,
    removed_at       timestamptz,
    error            text,
    sha256           bytea
);

CREATE INDEX exports_unfinished ON streamer.exports (created_at) WHERE state IN ('pending', 'processing');
