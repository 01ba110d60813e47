-- Of one principal ($2), or of any.
SELECT *, (
    SELECT json_agg(json_build_object('coding', coding, 'generation', generation, 'state', state, 'coder', coder,
                                      'length', bytes, 'sha256', encode(sha256, 'hex')) ORDER BY coding)
    FROM streamer.representations WHERE export_id = exports.id AND removed_at IS NULL AND state <> 'failed'
) AS representations
FROM streamer.exports WHERE id = $1 AND ($2::text IS NULL OR principal = $2)
