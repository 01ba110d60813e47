-- A new export that runs here at once, if no other may begin before it, and less than $12 exports run on all servers. No
-- row either if the principal has used the idempotency key already.
INSERT INTO streamer.exports (id, state, spec, spec_version, principal, idempotency_key, label, label_folded, ttl, folder,
    server_id, lease_until, epoch, attempts, created_at, started_at)
SELECT $1::uuid, 'processing', $2::text, $3::integer, $4::text, $5::text, $6::text, $7::text, $8::interval, $9::uuid,
    $10::uuid, at + $11::interval, 1, 1, at, at
FROM (SELECT clock_timestamp() AS at) AS clock
WHERE NOT EXISTS (
    SELECT FROM streamer.exports
    WHERE state = 'pending' AND coalesce(folder, $9::uuid) = $9::uuid AND spec_version <= $3::integer
      AND coalesce(not_before <= clock_timestamp(), true)
  )
  AND ($12::integer IS NULL OR (SELECT count(*) FROM streamer.exports WHERE state = 'processing') < $12::integer)
ON CONFLICT (principal, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING created_at
