-- A new export that waits, if less than $10 exports wait. No row either if the principal has used the idempotency key
-- already.
INSERT INTO streamer.exports (id, state, spec, spec_version, principal, idempotency_key, label, label_folded, ttl, folder)
SELECT $1::uuid, 'pending', $2::text, $3::integer, $4::text, $5::text, $6::text, $7::text, $8::interval, $9::uuid
WHERE (SELECT count(*) FROM streamer.exports WHERE state = 'pending') < $10::integer
ON CONFLICT (principal, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING created_at
