"""Is what a query reads the same now as at the moment of its snapshot?

A snapshot and the locks of a query are taken one after the other. What commits between the two is not in the snapshot,
and still decides how the query is planned: a table that was truncated and filled again looks empty, a partition that
was attached is read beside the one whose rows it took over, a row policy lets out rows that were deleted before it was
opened, a name may belong to another relation by now. PostgreSQL does not detect this (its documentation, 13.6,
"Caveats"). Three comparisons do.

- The *shape* of a relation, a hash of its identity and its columns, is read with the catalog and again in the statement
  that takes the snapshot. A query is written from a catalog that its snapshot agrees with.
- What was locked before the snapshot was taken cannot have changed since. For anything that only the plan has locked
  (what a row policy or a materialized view reads, a relation that may not be locked as a whole), and for children,
  which come and go beside the lock on their parent, the *definitions* are compared: as the snapshot sees the catalog,
  and as it is now, which another connection is asked, because every statement of this one sees the snapshot.
- COPY and a cursor plan their query once more. A guard, evaluated before their first row, asks whether that took a lock
  on anything that was not compared.

What functions read is not covered, because no plan shows it, nor what a foreign server holds.
"""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from importlib.resources import files
from typing import Any, TypeVar

import asyncpg

from streamer.postgres.driver import Connection, Pool
from streamer.postgres.quoting import quote_relation
from streamer.source.dataset import Dataset

T = TypeVar("T")


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
SQL = files("streamer.source.session").joinpath("sql")
LOCKS, DEFINITIONS = (SQL.joinpath(f"{name}.sql").read_text(encoding="utf-8") for name in ("locks", "definitions"))
INDEXES = (b"i", b"I")  # pg_class.relkind
ANSWER = 10.0  # seconds for a connection beside that of the export, and for its answer

GIVE_WAY = "800ms"  # how long an export waits for a lock: less than deadlock_timeout, which is 1 s by default
GUARD_MARK = "streamer: not compared with the snapshot"  # begins the value that no boolean can have


class OutdatedCatalogError(Exception):
    """The relation of a dataset is not what the catalog knows: it has other columns, or its name is another's."""


class SourceChanged(Exception):
    """Between the snapshot and the locks of its query, what is read has changed. A newer snapshot may see all of it."""


async def compare(connection: Connection, beside: Pool, dataset: Dataset, before: Collection[int]) -> Sequence[int]:
    """To be called once the plan of a query holds its locks; returns what is locked, by oids.

    `before` is what was locked when the snapshot was taken; `beside` has connections to the same server. Raises
    SourceChanged and OutdatedCatalogError.
    """
    locks = await connection.fetch(LOCKS, dataset.oid)
    held = [lock["oid"] for lock in locks]
    tables = [lock for lock in locks if lock["relkind"] not in INDEXES]
    if dataset.oid not in {table["oid"] for table in tables}:
        raise OutdatedCatalogError(f"{dataset.name} is another relation")
    if any(table["parent"] is not False or table["oid"] not in before for table in tables):
        seen, now = await _both(
            connection.fetchval(DEFINITIONS, held), beside.fetchval(DEFINITIONS, held, timeout=ANSWER)
        )
        if seen != now:
            raise SourceChanged(f"what {dataset.name} reads was changed")
    return held


async def _both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """The answers to two questions on two connections that are asked at once; none is left without its answer."""
    beside = asyncio.create_task(other)
    try:
        return await one, await beside
    finally:
        beside.cancel()
        await asyncio.wait({beside})


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
