-- Of one principal ($2), or of any.
SELECT * FROM streamer.exports WHERE id = $1 AND ($2::text IS NULL OR principal = $2)
