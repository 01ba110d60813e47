DELETE FROM streamer.servers WHERE id = $1
