-- Servers that have died, and are not needed any more to find their exports.
DELETE FROM streamer.servers WHERE beat_at < clock_timestamp() - $1::interval
