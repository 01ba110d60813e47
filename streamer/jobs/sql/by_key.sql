SELECT * FROM streamer.exports WHERE principal = $1 AND idempotency_key = $2
