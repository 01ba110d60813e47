SELECT * FROM streamer.exports WHERE id = $1
