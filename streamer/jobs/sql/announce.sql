SELECT pg_notify('streamer', $1)
