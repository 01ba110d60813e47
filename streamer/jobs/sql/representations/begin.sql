-- Gives the right to make a representation to this server ($3), unless another one makes it, or it exists. `is_new` means
-- that no byte of it has been served. A row that a dead server has left is taken over when its lease is over. $7: the file
-- of a completed one is lost.
INSERT INTO streamer.representations AS known (export_id, coding, state, coder, server_id, lease_until, folder)
SELECT id, $2, 'processing', $4, $3, clock_timestamp() + $5::interval, $6
FROM streamer.exports
WHERE id = $1 AND removed_at IS NULL AND state IN ('pending', 'processing', 'completed')
ON CONFLICT (export_id, coding) DO UPDATE
SET state = 'processing', server_id = $3, lease_until = clock_timestamp() + $5::interval, folder = $6, removed_at = NULL,
    error = NULL
WHERE known.state = 'failed'
   OR known.state = 'completed' AND (known.removed_at IS NOT NULL OR known.folder = $6 AND $7)
   OR known.state = 'processing' AND (known.lease_until < clock_timestamp() OR known.server_id = $3)
RETURNING *, xmax = 0 AS is_new
