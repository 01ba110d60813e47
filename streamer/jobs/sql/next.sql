-- The next export that a server of this folder ($1) may begin, except those that it cannot read ($2, $3) or still runs ($3),
-- if less than $4 exports run on all servers. Of each principal the oldest is considered. The principal with the fewest
-- running exports is first, then the one that has started none for the longest time.
WITH oldest AS (
    SELECT DISTINCT ON (principal) id, principal, created_at FROM streamer.exports
    WHERE state = 'pending' AND coalesce(folder, $1::uuid) = $1::uuid AND spec_version <= $2 AND id <> ALL($3::uuid[])
      AND coalesce(not_before <= clock_timestamp(), true)
    ORDER BY principal, created_at, id
), fair AS (
    SELECT id FROM oldest
    WHERE $4::integer IS NULL OR (SELECT count(*) FROM streamer.exports WHERE state = 'processing') < $4::integer
    ORDER BY
        (SELECT count(*) FROM streamer.exports WHERE principal = oldest.principal AND state = 'processing'),
        (SELECT max(started_at) FROM streamer.exports WHERE principal = oldest.principal) NULLS FIRST,
        created_at, id
    LIMIT 1
)
SELECT id, spec, spec_version FROM streamer.exports WHERE id = (SELECT id FROM fair)
