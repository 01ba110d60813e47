SELECT * FROM streamer.exports WHERE idempotency_key = $1
