-- No row if the principal has used the idempotency key already.
INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, idempotency_key, spec_version, label, label_folded, ttl,
    principal)
VALUES ($1, 'pending', $2, $3, clock_timestamp() + $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (principal, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING created_at
