-- Nothing if the idempotency key is known already.
INSERT INTO streamer.exports (id, state, spec, owner, lease_until, idempotency_key, spec_version)
VALUES ($1, 'pending', $2, $3, clock_timestamp() + $4, $5, $6)
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING *
