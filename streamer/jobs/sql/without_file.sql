-- Rows of this folder, and of none, whose file was removed more than $2 ago, oldest first, after a place in that order.
SELECT id, removed_since FROM (
    (
        SELECT id, coalesce(removed_at, finished_at) AS removed_since FROM streamer.exports
        WHERE (state IN ('failed', 'cancelled') OR state = 'completed' AND removed_at IS NOT NULL)
          AND coalesce(folder, '00000000-0000-0000-0000-000000000000') = $1
          AND coalesce(removed_at, finished_at) < now() - $2::interval
          AND (coalesce(removed_at, finished_at), id) > (coalesce($3, '-infinity'::timestamptz), $4::uuid)
        ORDER BY coalesce(removed_at, finished_at), id
        LIMIT $5
    )
    UNION ALL
    (
        SELECT id, coalesce(removed_at, finished_at) AS removed_since FROM streamer.exports
        WHERE (state IN ('failed', 'cancelled') OR state = 'completed' AND removed_at IS NOT NULL)
          AND coalesce(folder, '00000000-0000-0000-0000-000000000000') = '00000000-0000-0000-0000-000000000000'
          AND coalesce(removed_at, finished_at) < now() - $2::interval
          AND (coalesce(removed_at, finished_at), id) > (coalesce($3, '-infinity'::timestamptz), $4::uuid)
        ORDER BY coalesce(removed_at, finished_at), id
        LIMIT $5
    )
) AS without_file
ORDER BY removed_since, id
LIMIT $5
