SELECT count(*) >= $1 AS is_full FROM streamer.exports WHERE state = 'pending'
