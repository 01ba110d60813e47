SELECT id FROM streamer.identity
