"""The database session of one export: a snapshot, a role, and settings under which PostgreSQL prints values in one way.

All rows of an export are of one REPEATABLE READ READ ONLY snapshot. Settings and role are local to the transaction, so
a connection returns to its pool unchanged, and a pooler that refuses start-up parameters has nothing to refuse. Every
query on behalf of a client runs in such a session, so that none avoids the role.

A snapshot must not be older than the locks on what it reads: an older one sees a table that was truncated and filled
again as empty (PostgreSQL documentation, 13.6). The first SELECT fixes the snapshot, utility statements do not. So a
session begins with one message: BEGIN, SET LOCAL, LOCK TABLE, and the SELECT that takes the snapshot once the lock is
held. Relations that cannot be locked, or that only the plan locks, are compared afterwards: see consistency.py.

An export waits for a lock for less than `deadlock_timeout`, so that PostgreSQL never ends a migration to resolve a
deadlock with an export.

The name of an exported snapshot is a few small numbers, and another server may have a snapshot of the same name at the
same time, such as the next replica behind a load balancer. So a session that imports one by name compares its identity.

However a session ends, nothing of it continues in the server. The driver answers the cancellation of a query with a
CancelRequest, and the next statement waits until the server has obeyed; if the driver loses track of a COPY, the
session is terminated from another connection.
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
from streamer.postgres.statements import read_sql
from streamer.source.dataset import Dataset, Locker
from streamer.source.session.consistency import FIRST_USER_OID, HELD, PACKAGE, SHAPE

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
    # A notice between two rows makes the driver drop rows: see driver.py.
    "client_min_messages": "error",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # The same query gives the same rows in the same order: no race of workers, no scan that joins another half way.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
    # A cursor is planned for all of its rows, as COPY is, not for the first tenth.
    "cursor_tuple_fraction": "1",
    # To compile a plan takes longer than the first rows.
    "jit": "off",
}
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
LATER_SETTINGS = {17: {"transaction_timeout": "0"}}  # by the first version that has them
OPEN_TIMEOUT = 10.0  # seconds for the first answers of a session, which a network may lose
CLEAN_UP_TIMEOUT = 1.0  # seconds for a cancelled query to end and its transaction to be rolled back
# A process number alone may be that of another session by now; the start of the transaction is not.
TERMINATE = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND xact_start = $2"


# The time of the statement that fixes the snapshot, kept for the next statement. In a simple-query message this SELECT
# fixes the snapshot and is evaluated at once; a prepared statement would fix it a round trip earlier.
TAKE = "SELECT pg_catalog.set_config('streamer.snapshot_at', pg_catalog.clock_timestamp()::pg_catalog.text, true)"
OPENED = read_sql(PACKAGE, "opened", shape=SHAPE, held=HELD, first_user_oid=FIRST_USER_OID)
# Identifies the start of the server that has the snapshot, and the transactions that the snapshot sees.
IDENTITY = """pg_catalog.concat_ws(
    ' ', EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()), pg_catalog.pg_current_snapshot())"""


NO_SUCH_SNAPSHOT = (
    asyncpg.UndefinedObjectError,  # since PostgreSQL 17
    asyncpg.InvalidParameterValueError,  # before
    asyncpg.ObjectNotInPrerequisiteStateError,  # its transaction is ending
)


class SnapshotGoneError(asyncpg.InterfaceError):  # type: ignore[misc]
    """An exported snapshot cannot be imported any more, and the export cannot continue without it."""


class LockRefusedError(Exception):
    """A relation may be read, but not locked: such as a view whose owner may read some columns of a table below it."""


@dataclass(frozen=True, slots=True)
class ExportedSnapshot:
    """A snapshot that other sessions can import as long as its own transaction is open."""

    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open transaction with a snapshot.

    `taken_at` is None if the snapshot is another session's. `shape` is that of the dataset's relation as the snapshot
    sees it, None if there is none; `locked` has the oids that were locked before the snapshot: see consistency.py.
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
    exported: ExportedSnapshot | None = None,
    *,
    role: str | None,
    dataset: Dataset | None = None,
    lock_timeout: str = "0",
    clean_up_timeout: float = CLEAN_UP_TIMEOUT,
) -> AsyncIterator[Snapshot]:
    """Opens a read-only transaction on a connection of its own, with a new snapshot or an exported one.

    It runs as `role`, or as the user of the pool. A new snapshot is taken with the relation of `dataset` locked, if it
    may be locked. `lock_timeout` limits the wait for any lock, and `clean_up_timeout` (seconds) each step of the end.
    Raises SnapshotGoneError if the transaction that has
    exported the snapshot has ended, or is not on the server of this connection.
    """
    connection = await pool.acquire()
    snapshot, clean = None, True
    try:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                snapshot = await _open(connection, exported, role, dataset, lock_timeout)
            yield snapshot
        finally:
            clean = False  # also if the roll-back is cancelled
            clean = await _rolled_back(connection, clean_up_timeout)
    finally:
        with suppress(Exception):  # the pool drops a connection that it cannot take back
            await pool.release(connection, timeout=clean_up_timeout)
        if snapshot is not None and not clean:
            await _terminate(pool, snapshot, clean_up_timeout)


async def export_snapshot(connection: Connection) -> ExportedSnapshot:
    """Exports the snapshot of an open transaction."""
    row = await connection.fetchrow(f"SELECT pg_catalog.pg_export_snapshot() AS name, {IDENTITY} AS identity")
    return ExportedSnapshot(row["name"], row["identity"])


@asynccontextmanager
async def savepoint(connection: Connection) -> AsyncIterator[None]:
    """Keeps the transaction usable if a statement fails in the context."""
    await connection.execute("SAVEPOINT part")
    try:
        yield
    except Exception:
        await connection.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
        raise
    await connection.execute("RELEASE SAVEPOINT part")


async def _open(
    connection: Connection, exported: ExportedSnapshot | None, role: str | None, dataset: Dataset | None, timeout: str
) -> Snapshot:
    version = connection.get_server_version().major
    opening = "; ".join(_opening(version, role, dataset, timeout, own=exported is None))
    if exported is None:
        opening = f"{BEGIN}; {opening}"
    else:
        await _import(connection, exported)
    await _execute(connection, opening, locks=dataset is not None and dataset.locker is not None)
    row = await connection.fetchrow(OPENED, dataset.oid if dataset else None)
    return Snapshot(connection, **row)


async def _import(connection: Connection, exported: ExportedSnapshot) -> None:
    try:
        await connection.execute(f"{BEGIN}; SET TRANSACTION SNAPSHOT '{exported.name}'")
    except NO_SUCH_SNAPSHOT as error:
        raise SnapshotGoneError("the transaction that exported the snapshot has ended") from error
    if await connection.fetchval(f"SELECT {IDENTITY}") != exported.identity:
        raise SnapshotGoneError("another server has a snapshot of the same name")


async def _execute(connection: Connection, opening: str, *, locks: bool) -> None:
    """Executes the first message. Raises LockRefusedError if it `locks` a relation and lacks a privilege."""
    try:
        await connection.execute(opening)
    except asyncpg.InsufficientPrivilegeError as error:
        if not locks:
            raise
        raise LockRefusedError from error


def _opening(version: int, role: str | None, dataset: Dataset | None, lock_timeout: str, *, own: bool) -> Iterator[str]:
    """Yields the statements of the first message after BEGIN. None of them but TAKE fixes a snapshot.

    The time limits come first, because the lock may not be free.
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


async def _rolled_back(connection: Connection, timeout: float) -> bool:
    """Rolls back, and returns whether the transaction has ended in the server; if not, drops the connection.

    The transaction may not have begun, as in the queue of a pooler.
    """
    try:
        async with asyncio.timeout(timeout):
            await connection.execute("ROLLBACK")
    except Exception as error:
        log.warning("dropped a connection that could not be rolled back: %r", error)
        with suppress(asyncpg.InterfaceError):  # the connection may have left the pool already
            connection.terminate()
        return False
    return True


async def _terminate(pool: Pool, snapshot: Snapshot, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await pool.execute(TERMINATE, snapshot.process, snapshot.began_at)
    except Exception as error:
        log.warning("a session that may still be running a query could not be ended: %r", error)
