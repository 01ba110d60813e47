-- The relations below some relations ($1) in the inheritance tree, each with the one that it is below.
WITH RECURSIVE family (root, member) AS (
    SELECT given, given FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS given
  UNION
    SELECT root, inhrelid FROM family JOIN pg_catalog.pg_inherits ON inhparent = member
)
SELECT root, member FROM family WHERE member <> root
