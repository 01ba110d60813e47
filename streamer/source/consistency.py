"""Is what a query reads the same now as at the moment of its snapshot?

A snapshot and the locks of a query are taken one after the other. What commits between the two is not in the snapshot,
and still decides how the query is planned: a table that was truncated and filled again looks empty, a partition that
was attached is read beside the one whose rows it took over, a name may belong to another relation by now. PostgreSQL
does not detect this (its documentation, 13.6, "Caveats"). Three comparisons do.

- The *shape* of a relation, a hash of its identity and its columns, is read with the catalog and again in the statement
  that takes the snapshot. A query is written from a catalog that its snapshot agrees with.
- Once the plan holds its locks, every relation that this session has locked, also those that only a view or a row
  policy reads, is compared: as the snapshot sees it, and as it is. SQL over `pg_class` sees the snapshot; functions
  such as `pg_relation_filenode` see what is current.
- COPY and a cursor plan their query once more. A guard, evaluated before their first row, asks whether that took a lock
  on anything that was not compared.

No function tells the current parents of a relation that inherits from another (`INHERITS`, not a partition). There the
plan is asked: relations that it scans under one alias must belong to one inheritance tree. A query may look like that
by itself, so a finding of this kind is only doubtful: it counts once, and not if a newer snapshot finds the same.

What functions read is not covered, because no plan shows it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from streamer.source.catalog import Dataset
from streamer.source.database import Connection
from streamer.source.names import quote_relation

# Of a relation `c`. has_column_privilege is a part, because the catalog offers only the columns that may be read.
SHAPE = """pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', c.oid, c.relkind, (
    SELECT pg_catalog.string_agg(pg_catalog.concat_ws(
        ' ', a.attnum, pg_catalog.quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated,
        pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
    ), ',' ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
)), 0)"""

# By the names $1 and $2; NULL if there is no such relation.
SHAPE_BY_NAME = f"""(
    SELECT {SHAPE}
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2
)"""  # noqa: S608 - of constants

HELD = """
    SELECT DISTINCT relation AS oid FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted AND relation >= 16384
"""
COMPARISON = files("streamer.source").joinpath("sql/comparison.sql").read_text(encoding="utf-8")

GUARD_MARK = "streamer: not compared with the snapshot"  # begins the value that no boolean can have


class SourceChanged(Exception):
    """Between the snapshot and the locks of its query, what is read has changed. A newer snapshot may see all of it."""

    def __init__(self, definite: Sequence[str], doubtful: Sequence[str]) -> None:
        super().__init__("; ".join([*definite, *doubtful]))
        self.doubtful = doubtful


@dataclass(frozen=True, slots=True)
class Scan:
    """One relation that a plan scans: under an alias, to which the planner adds `_1`, `_2` for children."""

    alias: str
    schema: str
    relation: str


async def compare(
    connection: Connection, dataset: Dataset, scans: Sequence[Scan], *, doubtful: Collection[str] = ()
) -> Sequence[int]:
    """To be called once the plan of a query holds its locks; returns what is locked, by oids.

    Raises SourceChanged. A finding that was `doubtful` and is found again is of the query, not of a change.
    """
    aliases = [_base(scan.alias) for scan in scans]
    schemas, names = [scan.schema for scan in scans], [scan.relation for scan in scans]
    found = await connection.fetchrow(COMPARISON, dataset.oid, aliases, schemas, names)
    if found["definite"] or not set(found["doubtful"]) <= set(doubtful):
        raise SourceChanged(found["definite"], found["doubtful"])
    held: Sequence[int] = found["held"]
    return held


def guard(held: Sequence[int]) -> str:
    """A condition that is true, or fails the statement before its first row if more than `held` is locked.

    The value that cannot be read as a boolean depends on a row, so that the planner does not evaluate it.
    """
    known = ", ".join(map(str, held))
    return (
        f"(SELECT CASE WHEN pg_catalog.count(*) = 0 THEN true "  # noqa: S608 - numbers
        f"ELSE pg_catalog.concat('{GUARD_MARK}: ', pg_catalog.min(oid))::pg_catalog.bool END "
        f"FROM ({HELD}) held WHERE oid <> ALL ('{{{known}}}'::pg_catalog.oid[]))"
    )


def guard_of_name(schema: str, name: str, oid: int) -> str:
    """A condition that is true, or fails the statement before its first row if a name has become another relation's.

    The rename of a schema needs no lock on the tables in it.
    """
    relation = quote_relation(schema, name).replace("'", "''")
    return (
        f"(SELECT CASE WHEN pg_catalog.to_regclass('{relation}') = {oid}::pg_catalog.oid THEN true "
        f"ELSE pg_catalog.concat('{GUARD_MARK}: ', pg_catalog.pg_backend_pid())::pg_catalog.bool END)"
    )


def is_of_a_guard(error: BaseException) -> bool:
    return isinstance(error, asyncpg.InvalidTextRepresentationError) and GUARD_MARK in str(error)


def _base(alias: str) -> str:
    stem, _, number = alias.rpartition("_")
    return stem if stem and number.isascii() and number.isdigit() else alias
