SELECT position FROM streamer.flushes WHERE export_id = $1 AND coding = $2 AND generation = $3 ORDER BY position
