"""One export's database session: a snapshot, a role, and settings under which PostgreSQL prints every value in one way.

All rows of an export are of one REPEATABLE READ READ ONLY snapshot. Settings and role are local to the transaction, so
a pooled connection goes back as it came, and a pooler that refuses start-up parameters has nothing to refuse. Whatever
is asked of the source on behalf of a client is asked here: no way around the role is left.

A snapshot must not be older than the locks on what it reads: to an older one, a table that was truncated and filled
again is empty (PostgreSQL documentation, 13.6). The first SELECT fixes the snapshot, utility statements do not. So a
session begins with one message: BEGIN, SET LOCAL, LOCK TABLE, and the SELECT that takes the snapshot once the lock is
held. What cannot be locked, and what is locked only by the plan, is compared afterwards: see consistency.py.

An export gives way: it waits for a lock for less than `deadlock_timeout`, so that PostgreSQL never ends a migration to
resolve a deadlock with an export.

An exported snapshot has a name that is a few small numbers, and another server may have one of the same name at the
same time, such as the next replica behind a balancer. So a session that opens one by its name compares its identity.

However a snapshot is left, nothing of it goes on in the server. asyncpg answers a cancelled query with a CancelRequest
and lets the next statement wait until that has been obeyed; where it loses track of a COPY, the session is ended from
another connection.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import asyncpg

from streamer.postgres.driver import Connection, Pool
from streamer.postgres.quoting import quote_identifier, quote_relation
from streamer.source.dataset import Dataset, Locker
from streamer.source.session.consistency import HELD, SHAPE_BY_OID

log = logging.getLogger(__name__)

SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    # asyncpg drops the rows that are in its buffer when a notice stands between them.
    "client_min_messages": "error",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # The same query gives the same rows in the same order: no worker race, no scan that joins another one half way.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
    # A FETCH cursor is planned for all of its rows, as COPY is, not for its first tenth.
    "cursor_tuple_fraction": "1",
    # Compiling a plan costs more than the first rows.
    "jit": "off",
}
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
LATER_SETTINGS = {17: {"transaction_timeout": "0"}}  # by the version that has them first
OPENING = 10.0  # seconds for the answers that a session begins with; a network may swallow them
CLEAN_UP = 1.0  # seconds for a cancelled query to end and its transaction to be rolled back
# A transaction by its session and its start: a process number alone may be another's by now.
END_SESSION = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND xact_start = $2"


# The clock of the statement that fixes the snapshot, kept where the next statement finds it. In a simple-query message
# this SELECT fixes the snapshot and is evaluated at once; prepared, it would fix it a round trip before.
TAKE = "SELECT pg_catalog.set_config('streamer.snapshot_at', pg_catalog.clock_timestamp()::pg_catalog.text, true)"
# A session that opens another's snapshot has no such moment of its own.
TAKEN = f"""
    SELECT nullif(pg_catalog.current_setting('streamer.snapshot_at', true), '')::pg_catalog.timestamptz AS taken_at,
        pg_catalog.now() AS began_at, pg_catalog.pg_backend_pid() AS process, {SHAPE_BY_OID} AS shape,
        ARRAY({HELD}) AS locked
"""
# Which start of which server a snapshot is of, and which transactions it sees.
IDENTITY = """pg_catalog.concat_ws(
    ' ', EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()), pg_catalog.pg_current_snapshot())"""


NO_SUCH_SNAPSHOT = (
    asyncpg.UndefinedObjectError,  # since PostgreSQL 17
    asyncpg.InvalidParameterValueError,  # before
    asyncpg.ObjectNotInPrerequisiteStateError,  # its transaction is ending
)


class SnapshotGoneError(asyncpg.InterfaceError):  # type: ignore[misc]
    """Nobody can see any more what an export began to see."""


class LockRefusedError(Exception):
    """A relation may be read and not be locked: a view, whose owner may read some columns of a table below it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A snapshot that others can open as long as its own transaction is open."""

    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open transaction, and the moment it sees.

    `taken_at` is None if the snapshot is another session's. `shape` is that of the dataset's relation as the snapshot
    sees it, None if there is none, and `locked` are the oids of what was locked before: see consistency.py.
    """

    connection: Connection
    taken_at: datetime | None
    began_at: datetime
    process: int  # of the server
    shape: int | None
    locked: Sequence[int]


@asynccontextmanager
async def open_snapshot(
    pool: Pool,
    exported: Exported | None = None,
    *,
    role: str | None,
    dataset: Dataset | None = None,
    lock_timeout: str = "0",
) -> AsyncIterator[Snapshot]:
    """A read-only transaction on a connection of its own, on its own snapshot or on one that another has exported, as
    `role`, or as the user of the pool. The snapshot is taken with the relation of `dataset` locked, if it may be.

    `lock_timeout` is how long any lock is waited for. Raises SnapshotGoneError if the other transaction has ended, or
    is not on the server of this connection.
    """
    connection = await pool.acquire()
    snapshot, clean = None, True
    try:
        try:
            async with asyncio.timeout(OPENING):
                version = connection.get_server_version().major
                opening = "; ".join(_opening(version, role, dataset, lock_timeout, own=exported is None))
                if exported is None:
                    opening = f"{BEGIN}; {opening}"
                else:
                    await _import(connection, exported)
                await _execute(connection, opening, locks=dataset is not None and dataset.locker is not None)
                row = await connection.fetchrow(TAKEN, dataset.oid if dataset else None)
                snapshot = Snapshot(connection, **row)
            yield snapshot
        finally:
            clean = False  # unless what follows is allowed to say otherwise
            clean = await _rolled_back(connection)
    finally:
        with suppress(Exception):  # it drops a connection that it cannot take back
            await pool.release(connection, timeout=CLEAN_UP)
        if snapshot is not None and not clean:
            await _end_session(pool, snapshot)


async def export_snapshot(connection: Connection) -> Exported:
    """The snapshot of an open transaction, for others to see the same."""
    row = await connection.fetchrow(f"SELECT pg_catalog.pg_export_snapshot() AS name, {IDENTITY} AS identity")
    return Exported(row["name"], row["identity"])


@asynccontextmanager
async def savepoint(connection: Connection) -> AsyncIterator[None]:
    """What fails while the context is open does not end the transaction of a snapshot."""
    await connection.execute("SAVEPOINT part")
    try:
        yield
    except Exception:
        await connection.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
        raise
    await connection.execute("RELEASE SAVEPOINT part")


async def _import(connection: Connection, exported: Exported) -> None:
    try:
        await connection.execute(f"{BEGIN}; SET TRANSACTION SNAPSHOT '{exported.name}'")
    except NO_SUCH_SNAPSHOT as error:
        raise SnapshotGoneError("the transaction that exported the snapshot has ended") from error
    if await connection.fetchval(f"SELECT {IDENTITY}") != exported.identity:
        raise SnapshotGoneError("another server has a snapshot of the same name")


async def _execute(connection: Connection, opening: str, *, locks: bool) -> None:
    """Raises LockRefusedError for want of a privilege if the message `locks` a relation."""
    try:
        await connection.execute(opening)
    except asyncpg.InsufficientPrivilegeError as error:
        if not locks:
            raise
        raise LockRefusedError from error


def _opening(version: int, role: str | None, dataset: Dataset | None, lock_timeout: str, *, own: bool) -> Iterator[str]:
    """What a session begins with, after BEGIN in the same message: no statement before TAKE fixes a snapshot.

    The time limits come first, because the lock may have to be waited for.
    """
    yield _settings(version)
    yield f"SET LOCAL lock_timeout = '{lock_timeout}'"
    lock = f"LOCK TABLE {quote_relation(dataset.schema, dataset.relation)} IN ACCESS SHARE MODE" if dataset else ""
    locker = dataset.locker if dataset else None
    if locker is Locker.USER:
        yield lock
    if role is not None:
        yield f"SET LOCAL ROLE {quote_identifier(role)}"
    if locker is Locker.ROLE:
        yield lock
    if own:
        yield TAKE


@lru_cache
def _settings(version: int) -> str:
    known = dict(SETTINGS)
    for since, settings in LATER_SETTINGS.items():
        known.update(settings if version >= since else {})
    return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in known.items())


async def _rolled_back(connection: Connection) -> bool:
    """Whether the transaction has ended in the server; if not, the connection is dropped.

    It may not have begun, as in the queue of a pooler; then there is nothing to roll back.
    """
    try:
        async with asyncio.timeout(CLEAN_UP):
            await connection.execute("ROLLBACK")
    except Exception as error:
        log.warning("dropped a connection that could not be rolled back: %r", error)
        with suppress(asyncpg.InterfaceError):  # it may have left the pool by itself
            connection.terminate()
        return False
    return True


async def _end_session(pool: Pool, snapshot: Snapshot) -> None:
    try:
        async with asyncio.timeout(CLEAN_UP):
            await pool.execute(END_SESSION, snapshot.process, snapshot.began_at)
    except Exception as error:
        log.warning("a session that may still be running a query could not be ended: %r", error)
