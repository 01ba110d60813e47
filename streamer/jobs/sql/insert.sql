-- No row if the idempotency key is known already.
INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, idempotency_key, spec_version, label, label_folded, ttl)
VALUES ($1, 'pending', $2, $3, clock_timestamp() + $4, $5, $6, $7, $8, $9)
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING created_at
