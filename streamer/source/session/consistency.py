"""Compares what a query reads now with what its snapshot sees.

A snapshot and the locks of a query are taken one after the other. A transaction that commits between the two is not in
the snapshot, and still decides how the query is planned: a table that was truncated and filled again looks empty; a
partition that was attached is read beside the table whose rows it has taken over; a row policy lets out rows that were
deleted before it was widened; a name may belong to another relation. PostgreSQL does not detect this (its
documentation, 13.6, "Caveats"). Three comparisons do:

- The *shape* of a relation, a hash of its identity and its columns, is read with the catalog and again in the statement
  that takes the snapshot. A query is composed from a catalog that its snapshot agrees with.
- A relation that was locked before the snapshot cannot have changed since. For relations that only the plan has locked
  (those that a row policy or a materialized view reads, one that may not be locked as a whole), and for children, which
  can be attached in spite of the lock on their parent, the *definitions* are compared: as the snapshot sees the
  catalog, and as it is now. Another connection reads the latter, because every statement of this one sees the snapshot.
- COPY and a cursor plan their query once more. A guard, evaluated before their first row, fails the statement if this
  has locked a relation that was not compared.

This does not cover what functions read, because no plan shows it, nor what a foreign server holds.
"""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg

from streamer.postgres.driver import Connection, Pool
from streamer.postgres.quoting import quote_relation
from streamer.postgres.statements import read_sql
from streamer.source.dataset import Dataset

T = TypeVar("T")

PACKAGE = "streamer.source.session"
FIRST_USER_OID = 16384  # of an object that a user has made: FirstNormalObjectId in src/include/access/transam.h
SHAPE = read_sql(PACKAGE, "shape", user="CURRENT_USER")
SHAPE_FOR_ROLE = read_sql(PACKAGE, "shape", user="coalesce($2::pg_catalog.name, CURRENT_USER)")
CURRENT_SHAPE = read_sql(PACKAGE, "current_shape", shape=SHAPE_FOR_ROLE)
HELD = read_sql(PACKAGE, "held")
LOCKS = read_sql(PACKAGE, "locks", held=HELD, first_user_oid=FIRST_USER_OID)
DEFINITIONS = read_sql(PACKAGE, "definitions")
INDEXES = (b"i", b"I")  # pg_class.relkind
ANSWER_TIMEOUT = 10.0  # seconds for a connection beside that of the export, and for its answer

LOCK_TIMEOUT = "800ms"  # less than deadlock_timeout, which is 1 s by default
GUARD_MARK = "streamer: not compared with the snapshot"  # the beginning of a value that is no boolean


class OutdatedCatalogError(Exception):
    """The relation of a dataset is not what the catalog knows: it has other columns, or the name is that of another."""


class SourceChanged(Exception):
    """A relation of a query has changed between its snapshot and its locks. A newer snapshot may see the change."""


async def compare(connection: Connection, beside: Pool, dataset: Dataset, before: Collection[int]) -> Sequence[int]:
    """Compares what a query reads, once its plan holds its locks. Returns the oids of the locked relations.

    `before` has the oids that were locked when the snapshot was taken; `beside` has connections to the same server.
    Raises SourceChanged and OutdatedCatalogError.
    """
    locks = await connection.fetch(LOCKS, dataset.oid)
    held = [lock["oid"] for lock in locks]
    tables = [lock for lock in locks if lock["relkind"] not in INDEXES]
    if dataset.oid not in {table["oid"] for table in tables}:
        raise OutdatedCatalogError(f"{dataset.name} is another relation")
    if any(table["parent"] is not False or table["oid"] not in before for table in tables):
        seen, now = await _both(
            connection.fetchval(DEFINITIONS, held), beside.fetchval(DEFINITIONS, held, timeout=ANSWER_TIMEOUT)
        )
        if seen != now:
            raise SourceChanged(f"what {dataset.name} reads was changed")
    return held


async def _both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Awaits both at the same time, and neither is left running if the other fails."""
    beside = asyncio.create_task(other)
    try:
        return await one, await beside
    finally:
        beside.cancel()
        await asyncio.wait({beside})


def guard(held: Sequence[int]) -> str:
    """Returns a condition that fails its statement before the first row if more than `held` is locked."""
    known = f"'{{{', '.join(map(str, held))}}}'::pg_catalog.oid[]"
    return read_sql(PACKAGE, "guard", mark=GUARD_MARK, held=HELD, first_user_oid=FIRST_USER_OID, known=known)


def name_guard(schema: str, name: str, oid: int) -> str:
    """Returns a condition that fails its statement before the first row if a name has become another relation's."""
    relation = quote_relation(schema, name).replace("'", "''")
    return read_sql(PACKAGE, "name_guard", mark=GUARD_MARK, relation=f"'{relation}'", oid=oid)


def is_from_guard(error: BaseException) -> bool:
    """Whether a guard has failed a statement."""
    return isinstance(error, asyncpg.InvalidTextRepresentationError) and GUARD_MARK in str(error)
