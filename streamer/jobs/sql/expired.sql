-- Completed exports in this folder that are older than the common time to live ($2) or their own, except those that are
-- being downloaded ($3). now() and not clock_timestamp(), which is volatile: no index could be searched for it.
SELECT id FROM (
    (
        SELECT id FROM streamer.exports
        WHERE state = 'completed' AND removed_at IS NULL AND folder = $1 AND finished_at < now() - $2::interval
          AND id <> ALL($3::uuid[])
        ORDER BY finished_at
        LIMIT $4
    )
    UNION
    (
        SELECT id FROM streamer.exports
        WHERE state = 'completed' AND removed_at IS NULL AND ttl IS NOT NULL AND folder = $1
          AND (finished_at AT TIME ZONE 'UTC') + ttl < now() AT TIME ZONE 'UTC'
          AND id <> ALL($3::uuid[])
        ORDER BY (finished_at AT TIME ZONE 'UTC') + ttl
        LIMIT $4
    )
) AS expired
LIMIT $4
