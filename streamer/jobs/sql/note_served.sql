-- Before the first byte is sent: from now on this export is not run again. It may just have been completed.
UPDATE streamer.exports
SET served = true
WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state IN ('processing', 'completed')
RETURNING id
