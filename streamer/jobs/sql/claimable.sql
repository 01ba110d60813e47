-- Whether a server of this folder ($1) could begin an export: as next.sql, without its order.
SELECT EXISTS (
    SELECT FROM streamer.exports
    WHERE state = 'pending' AND coalesce(folder, $1::uuid) = $1::uuid AND spec_version <= $2
      AND coalesce(not_before <= clock_timestamp(), true)
) AND ($3::integer IS NULL OR (SELECT count(*) FROM streamer.exports WHERE state = 'processing') < $3::integer) AS found
