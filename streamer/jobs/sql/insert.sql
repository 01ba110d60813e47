INSERT INTO streamer.exports (id, state, spec, owner, lease_until)
VALUES ($1, 'pending', $2, $3, clock_timestamp() + $4)
RETURNING *
