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

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from streamer.source.catalog import Dataset
from streamer.source.database import Connection
from streamer.source.names import quote_relation


def shape(user: str) -> str:
    """The shape of a relation `c`, where `user` is an expression for the role that reads it.

    has_column_privilege is a part, because the catalog offers only the columns that may be read.
    """
    return f"""pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', c.oid, c.relkind, (
        SELECT pg_catalog.string_agg(pg_catalog.concat_ws(
            ' ', a.attnum, pg_catalog.quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated,
            pg_catalog.has_column_privilege({user}, c.oid, a.attnum, 'SELECT')
        ), ',' ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    )), 0)"""  # noqa: S608 - of constants


SHAPE = shape("CURRENT_USER")
# Of the relation with the oid $1, in a session of the role; NULL if there is none.
SHAPE_BY_OID = f"(SELECT {SHAPE} FROM pg_catalog.pg_class c WHERE c.oid = $1)"  # noqa: S608 - of constants
# Of the relation that is called $1 now, in a session of any user; $2 is the role, NULL for the user.
SHAPE_NOW = f"""
    SELECT {shape("coalesce($2::pg_catalog.name, CURRENT_USER)")}
    FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)
"""  # noqa: S608 - of constants

HELD = """
    SELECT DISTINCT relation AS oid FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted AND relation >= 16384
"""
SQL = files("streamer.source").joinpath("sql")
# Each is asked only if the one before it leaves a question open: 0.15, 0.3 and 1.2 ms, most of them for planning.
LOCKS, RELATIONS, TREES = (
    SQL.joinpath(f"{name}.sql").read_text(encoding="utf-8") for name in ("locks", "relations", "trees")
)
INDEXES = (b"i", b"I")  # pg_class.relkind

GIVE_WAY = "800ms"  # how long an export waits for a lock: less than deadlock_timeout, which is 1 s by default
GUARD_MARK = "streamer: not compared with the snapshot"  # begins the value that no boolean can have


class OutdatedCatalogError(Exception):
    """The relation of a dataset is not what the catalog knows: it has other columns, or its name is another's."""


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

    What was locked before the snapshot was taken cannot have changed since. Raises SourceChanged and
    OutdatedCatalogError. A finding that was `doubtful` and is found again is of the query, not of a change.
    """
    locks = await connection.fetch(LOCKS)
    tables = [lock for lock in locks if lock["relkind"] not in INDEXES]
    if dataset.oid not in {lock["oid"] for lock in tables}:
        raise OutdatedCatalogError(f"{dataset.name} is another relation")
    if len(tables) == 1 and dataset.locker is not None and not tables[0]["parent"]:
        return [lock["oid"] for lock in locks]
    relations = await connection.fetch(RELATIONS)
    if changes := [f"{row['name']} has changed" for row in relations if row["changed"]]:
        raise SourceChanged(changes, ())
    relations_of = _by_alias(scans)
    alone = all(len(found) == 1 for found in relations_of.values()) and not any(row["parent"] for row in relations)
    if alone and dataset.locker is not None:
        return [row["oid"] for row in relations]
    scanned = [(alias, *relation) for alias, found in relations_of.items() for relation in found]
    return await _compare_trees(connection, dataset, scanned, doubtful)


async def _compare_trees(
    connection: Connection, dataset: Dataset, scanned: Sequence[tuple[str, str, str]], doubtful: Collection[str]
) -> Sequence[int]:
    aliases, schemas, names = ([each[place] for each in scanned] for place in range(3))
    await connection.execute(f"SET LOCAL lock_timeout = '{GIVE_WAY}'")  # it locks every partition
    found = await connection.fetchrow(TREES, dataset.oid, aliases, schemas, names)
    await connection.execute("SET LOCAL lock_timeout = 0")
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


def _by_alias(scans: Iterable[Scan]) -> Mapping[str, set[tuple[str, str]]]:
    """The relations that are scanned under one alias, where the planner's suffixes `_1`, `_2` do not count."""
    found: dict[str, set[tuple[str, str]]] = {}
    for scan in scans:
        stem, _, number = scan.alias.rpartition("_")
        alias = stem if stem and number.isascii() and number.isdigit() else scan.alias
        found.setdefault(alias, set()).add((scan.schema, scan.relation))
    return found
