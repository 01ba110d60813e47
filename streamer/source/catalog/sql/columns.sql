-- The columns of some relations ($1) in their order, with the type that their values are read as, and its operators.
-- A domain is filtered as its base type, and its length is that of the first type on the way that has one. If the role
-- may read some columns of a relation, only those are returned.
WITH RECURSIVE types AS (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid AS declared, a.atttypmod AS modifier, a.attcollation,
           a.atttypid AS type, a.atttypmod AS length
    FROM pg_attribute a
    WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
      AND (has_column_privilege(a.attrelid, a.attnum, 'SELECT')
           OR NOT has_any_column_privilege(a.attrelid, 'SELECT'))
  UNION ALL
    SELECT attrelid, types.attnum, attname, declared, modifier, attcollation, t.typbasetype,
           CASE WHEN types.length = -1 THEN t.typtypmod ELSE types.length END
    FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype = 'd'
),
parts (whole, part) AS (
    SELECT DISTINCT t.oid, t.oid FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype <> 'd'
  UNION
    SELECT whole, inside.type
    FROM parts JOIN pg_type t ON t.oid = part, LATERAL (
        SELECT t.typelem WHERE t.typsubscript = 'array_subscript_handler'::regproc
      UNION ALL
        SELECT t.typbasetype WHERE t.typtype = 'd'
      UNION ALL
        SELECT a.atttypid FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inside (type)
),
known (part, ordered, schema) AS (
    SELECT DISTINCT ON (t.oid) t.oid, m.amname = 'btree', n.nspname
    FROM (SELECT DISTINCT part FROM parts) AS needed
    JOIN pg_type t ON t.oid = needed.part AND t.typtype <> 'd'
    JOIN pg_opclass c ON c.opcdefault AND (
        c.opcintype = t.oid
        OR c.opcintype = CASE t.typtype
            WHEN 'e' THEN 'anyenum' WHEN 'r' THEN 'anyrange' WHEN 'm' THEN 'anymultirange' WHEN 'c' THEN 'record'
            ELSE CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN 'anyarray' END
        END::regtype
        OR EXISTS (
            SELECT FROM pg_cast
            WHERE castsource = t.oid AND casttarget = c.opcintype AND castmethod = 'b' AND castcontext = 'i'
        )
    )
    JOIN pg_am m ON m.oid = c.opcmethod AND m.amname IN ('btree', 'hash')
    JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
        AND a.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 ELSE 1 END
    JOIN pg_operator o ON o.oid = a.amopopr AND o.oprname = '='
    JOIN pg_namespace n ON n.oid = o.oprnamespace
    ORDER BY t.oid, m.amname, c.opcintype <> t.oid
),
wholes AS (
    SELECT whole, bool_and(known.part IS NOT NULL) AS compared, bool_and(coalesce(ordered, false)) AS ordered
    FROM parts JOIN pg_type t ON t.oid = part AND t.typtype <> 'd' LEFT JOIN known USING (part)
    GROUP BY whole
)
SELECT attrelid AS relation, attname AS name, format_type(declared, modifier) AS declared,
       CASE WHEN n.nspname = 'pg_catalog' THEN t.typname::text
            ELSE concat_ws('.', quote_ident(n.nspname), quote_ident(t.typname)) END AS type,
       CASE WHEN t.oid IN ('bpchar'::regtype, 'varchar'::regtype) THEN nullif(length, -1) - 4 END AS length,
       t.typcategory::text AS category,
       wholes.compared AND t.typtype <> 'c' AS compared,  -- the literal of a row would have no type
       wholes.ordered,
       coalesce(l.collisdeterministic, true) OR current_setting('server_version_num')::int >= 180000 AS searched,
       coalesce(known.schema, 'pg_catalog') AS operators_in
FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype <> 'd'
JOIN pg_namespace n ON n.oid = t.typnamespace
JOIN wholes ON wholes.whole = t.oid
LEFT JOIN pg_collation l ON l.oid = types.attcollation
LEFT JOIN known ON known.part = t.oid
ORDER BY attrelid, attnum
