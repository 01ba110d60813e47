-- The newest exports before a place in the list, in one of the given states (in any if none is given), with a given text
-- ($6) in their label, of a given dataset ($7), in the form that it has in the JSON of the request, and of one principal
-- ($8) or of any.
-- $4 limits the exports, and $5 the bytes of their requests, because a page is built in memory. `found` counts one beyond
-- the page.
SELECT *, (
    SELECT json_agg(json_build_object('coding', coding, 'generation', generation, 'state', state, 'coder', coder,
                                      'length', bytes, 'sha256', encode(sha256, 'hex')) ORDER BY coding)
    FROM streamer.representations WHERE export_id = page.id AND removed_at IS NULL AND state <> 'failed'
) AS representations
FROM (
    SELECT *, count(*) OVER () AS found, row_number() OVER newest AS place,
        sum(length(spec)) OVER newest - length(spec) AS ahead
    FROM (
        SELECT * FROM streamer.exports
        WHERE (cardinality($1::text[]) = 0 OR state = ANY($1::text[]))
          AND ($6::text IS NULL OR position($6 IN label_folded) > 0)
          AND ($7::text IS NULL OR substring(spec FROM '"dataset":("(?:[^"\\]|\\.)*")') = $7)
          AND ($8::text IS NULL OR principal = $8)
          AND (created_at, id) < (coalesce($2, 'infinity'::timestamptz), $3::uuid)
        ORDER BY created_at DESC, id DESC
        LIMIT $4 + 1
    ) AS candidates
    WINDOW newest AS (ORDER BY created_at DESC, id DESC)
) AS page
WHERE place <= $4 AND ahead < $5
ORDER BY place
