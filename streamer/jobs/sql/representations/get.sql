SELECT * FROM streamer.representations WHERE export_id = $1 AND coding = $2
