"""The exports table: the truth about every export's state.

SQL lives in sql/, one statement a file, named for what it does. Every statement that changes a state names the states
it may leave, and says in its result whether it did: None means that somebody else was first.

The table has a schema of its own, `streamer`, so that it meets no table of the user's. Changes to it are numbered files
in sql/migrations/, applied once each, in order, under an advisory lock. A table that a newer version has changed is
left alone: what its columns mean is not known here.

Rows of a newer version may be there even so, written by a server that runs beside this one. `spec_version` says so in
SQL, and one that this version cannot read is never taken over.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from uuid import UUID

import asyncpg
import tenacity

from streamer.errors import StartError, Unavailable
from streamer.model import SPEC_VERSION, Export, ExportRequest, Place, Progress, State, folded, read_spec
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.failures import CONNECTION_LOST, one_line
from streamer.spool.spool import Sealed

SQL = files("streamer.jobs").joinpath("sql")
MIGRATION_LOCK = 0x73747265616D  # "stream": any fixed number that nobody else is likely to take
LEASE = timedelta(seconds=30)
RENEWAL = LEASE / 3
PATIENCE = 10.0  # seconds for a connection, and for the answer to a statement
PAGE_SPECS = 32 * 1024  # bytes of what the exports of one page of the list ask for; the last one may go beyond
ATTEMPTS = 3  # to run an export of which no byte has been served


CONFLICTS = 10  # times that a statement may give way to another one
CONFLICT = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
NOT_NOW = (
    *CONFLICT,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a disk that is nearly full
    asyncpg.InsufficientPrivilegeError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,  # by a statement_timeout of the role
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
)
"""What keeps a statement from the table for a while, and is no fault of the statement."""

UsedAt = tuple[datetime, UUID]
"""A place in the order in which completed exports were used: when one was, and its id."""

GoneAt = tuple[datetime, UUID]
"""A place in the order in which files went: when one did, and the id of its export."""


def _statements() -> dict[str, str]:
    return {path.name.removesuffix(".sql"): path.read_text() for path in SQL.iterdir() if path.name.endswith(".sql")}


class Store:
    """The exports that `owner`, this server process, works on, and a view of all others."""

    def __init__(self, pool: Pool, owner: UUID) -> None:
        self._pool = pool
        self._owner = owner
        self._sql = _statements()

    async def migrate(self) -> None:
        """Brings the table to this version. Raises StartError."""
        try:
            # Otherwise what another server does while this one waits for the lock would not be seen.
            async with self._pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
                await _migrate(connection)
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            raise StartError(f"DATABASE_URL: the exports table cannot be made: {one_line(error)}") from error

    async def identity(self) -> UUID:
        """What tells this exports table from all others. Raises Unavailable."""
        rows = await self._rows("identity")
        return UUID(str(rows[0]["id"]))

    async def insert(self, export_id: UUID, request: ExportRequest, key: str | None = None) -> Export | None:
        """None if the idempotency key is known already."""
        label = request.label
        return await self._one(
            *("insert", export_id, request.spec.to_json(), self._owner, LEASE, key, SPEC_VERSION),
            *(label, None if label is None else folded(label), request.ttl),
        )

    async def by_key(self, key: str) -> Export | None:
        """The export that was asked for with this idempotency key."""
        return await self._one("by_key", key)

    async def get(self, export_id: UUID) -> Export | None:
        return await self._one("get", export_id)

    async def page(
        self, states: Sequence[State], label: str | None, before: Place | None, limit: int
    ) -> tuple[list[Export], bool]:
        """The newest exports, in any of `states` (or in any at all), and whether there are more.

        With `label` only those that have it in their own.
        """
        created_at, export_id = before or (None, UUID(int=0))
        part = None if label is None else folded(label)
        rows = await self._rows("page", list(states), created_at, export_id, limit, PAGE_SPECS, part)
        return [Export.from_row(row) for row in rows], bool(rows) and rows[0]["found"] > len(rows)

    async def claim(self, waiting: Sequence[UUID], folder: UUID) -> Export | None:
        """Takes the oldest of the exports that wait here: pending → processing. Its file will lie in `folder`."""
        return await self._one("claim", self._owner, waiting, LEASE, folder)

    async def note_progress(self, export_id: UUID, snapshot_at: datetime, progress: Progress) -> Export | None:
        """None if the export is no longer this owner's to run."""
        return await self._one(
            "progress",
            export_id,
            self._owner,
            snapshot_at,
            progress.total_rows,
            progress.processed_rows,
            progress.bytes,
            progress.percentage,
            progress.rows_per_second,
        )

    async def note_served(self, export_id: UUID) -> Export | None:
        """A byte is about to leave; None if the export is no longer this owner's to run."""
        return await self._one("serve", export_id, self._owner)

    async def requeue(self, export_id: UUID, delay: timedelta, percentage: float) -> Export | None:
        """processing → pending, for a while; None if it may not: a byte was served, or it was the last attempt.

        `percentage`, here and below, is the highest that was shown of it.
        """
        return await self._one("again", export_id, self._owner, delay, ATTEMPTS, percentage)

    async def wait_for_source(self, export_id: UUID, delay: timedelta) -> Export | None:
        """processing → pending, for a while, without an attempt lost; None if a byte was served."""
        return await self._one("wait", export_id, self._owner, delay)

    async def release(self, export_id: UUID, percentage: float) -> Export | None:
        """Leaves the export to the next server; None if a byte of it was served."""
        return await self._one("release", export_id, self._owner, percentage)

    async def complete(
        self, export_id: UUID, sealed: Sealed, rows_per_second: int, *, truncated: bool, snapshot_at: datetime
    ) -> Export | None:
        """processing → completed; None if the export was cancelled meanwhile."""
        return await self._one(
            *("complete", export_id, self._owner, sealed.rows, sealed.length, sealed.sha256),
            *(rows_per_second, truncated, snapshot_at),
        )

    async def fail(self, export_id: UUID, reason: str, percentage: float) -> Export | None:
        """processing → failed; None if the export is no longer this owner's to run."""
        return await self._one("fail", export_id, self._owner, reason, percentage)

    async def cancel(self, export_id: UUID, percentage: float) -> Export | None:
        return await self._one("cancel", export_id, percentage)

    async def note_removed(self, export_ids: Sequence[UUID]) -> list[UUID]:
        """The files of finished exports are going away. Gives those that had not been removed yet."""
        return [row["id"] for row in await self._rows("remove", export_ids)]

    async def renew_leases(self, waiting: Sequence[UUID], running: Sequence[UUID]) -> None:
        await self._rows("renew", self._owner, LEASE, waiting, running)

    async def lost(self, waiting: Sequence[UUID]) -> list[UUID]:
        """Those that wait here in vain: cancelled through another server, or taken over by one."""
        return [row["id"] for row in await self._rows("lost", self._owner, waiting)]

    async def reclaim(self, dead: Sequence[UUID], running: Sequence[UUID]) -> list[Export]:
        """Takes over the exports of dead owners that may be run again, of those that this version can read."""
        orphans = await self._rows("orphans", dead, ATTEMPTS, running, SPEC_VERSION)
        readable = [row["id"] for row in orphans if read_spec(row)]
        if not readable:
            return []
        rows = await self._rows("adopt", self._owner, LEASE, dead, ATTEMPTS, readable)
        return [Export.from_row(row) for row in rows]

    async def fail_orphans(
        self, dead: Sequence[UUID], running: Sequence[UUID], *, served: str, exhausted: str
    ) -> list[Export]:
        """Fails those that may not, with the one reason or the other."""
        return [Export.from_row(row) for row in await self._rows("settle", served, exhausted, dead, ATTEMPTS, running)]

    async def note_used(self, export_id: UUID) -> None:
        """Somebody has begun to download it."""
        await self._rows("use", export_id)

    async def expired(self, folder: UUID, ttl: timedelta, read: Sequence[UUID], limit: int) -> list[UUID]:
        """Completed exports that lie in `folder` and ended more than `ttl` ago, or than their own, which is shorter.

        Those that are `read` are left out.
        """
        return [row["id"] for row in await self._rows("expired", folder, ttl, read, limit)]

    async def least_used(self, folder: UUID, after: UsedAt | None, read: Sequence[UUID], limit: int) -> list[UsedAt]:
        """Completed exports that lie in `folder`, least recently used first, after a place in that order."""
        used_at, export_id = after or (None, UUID(int=0))
        rows = await self._rows("least_used", folder, used_at, export_id, read, limit)
        return [(row["used_at"], row["id"]) for row in rows]

    async def gone(self, folder: UUID, ttl: timedelta, after: GoneAt | None, limit: int) -> list[GoneAt]:
        """Exports of `folder`, or of none, whose files went more than `ttl` ago, after a place in that order."""
        gone_at, export_id = after or (None, UUID(int=0))
        return [(row["gone_at"], row["id"]) for row in await self._rows("gone", folder, ttl, gone_at, export_id, limit)]

    async def forget(self, export_ids: Sequence[UUID]) -> int:
        """Deletes the rows of exports that have no file. Gives how many there were."""
        return len(await self._rows("forget", export_ids))

    async def locate(self, folder: UUID, found: Sequence[UUID]) -> None:
        """Notes the folder of exports of older versions, whose files were found in it."""
        await self._rows("locate", folder, found)

    async def garbage(self, folder: UUID, found: Sequence[UUID], sizes: Sequence[int]) -> list[UUID]:
        """Of the exports whose files of these sizes were found in `folder`, those that no download needs."""
        return [row["id"] for row in await self._rows("garbage", folder, found, sizes)]

    async def unknown(self, found: Sequence[UUID]) -> list[UUID]:
        """Those that have no row."""
        return [row["id"] for row in await self._rows("unknown", found)]

    async def _one(self, statement: str, *arguments: object) -> Export | None:
        """The export that a statement gives, or has changed; None if there is none."""
        rows = await self._rows(statement, *arguments)
        return Export.from_row(rows[0]) if rows else None

    async def _rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """What every statement but a migration goes through. Raises Unavailable if the database does not answer.

        asyncpg may swallow a cancellation, if the connection breaks while it obeys one; here it is raised again.
        """
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        try:
            async for attempt in _again_after_conflicts():
                with attempt:
                    return await self._fetch(self._sql[statement], arguments)
            raise AssertionError("tenacity either returns an attempt or raises")
        except CONNECTION_LOST as error:
            raise Unavailable("the database does not answer") from error
        except NOT_NOW as error:
            raise Unavailable("the exports table cannot be used at the moment") from error
        finally:
            if task.cancelling() > cancellations:
                raise asyncio.CancelledError

    async def _fetch(self, sql: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
        async with self._pool.acquire(timeout=PATIENCE) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments, timeout=PATIENCE)
            return rows


def _again_after_conflicts() -> tenacity.AsyncRetrying:
    """A statement that gave way to another one is begun anew.

    Each statement is a transaction of its own and does not depend on the isolation that is the default of the role.
    """
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(CONFLICT),
        stop=tenacity.stop_after_attempt(CONFLICTS),
        wait=tenacity.wait_random(0, 0.1),
        reraise=True,
    )


async def _migrate(connection: Connection) -> None:
    if await connection.fetchval("SELECT to_regclass('streamer.migrations')") is None:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS streamer")
        await connection.execute("CREATE TABLE streamer.migrations (version integer PRIMARY KEY)")
    done = {row["version"] for row in await connection.fetch("SELECT version FROM streamer.migrations")}
    _check_known(done)
    for version, migration in _migrations():
        if version not in done:
            await connection.execute(migration.read_text())
            await connection.execute("INSERT INTO streamer.migrations VALUES ($1)", version)


def _check_known(done: set[int]) -> None:
    """Raises StartError unless `done` are the first of the migrations that this version knows."""
    newest, known = max(done, default=0), _migrations()[-1][0]
    if newest > known:
        raise StartError(
            f"DATABASE_URL: the exports table was changed by a newer version of streamer (migration {newest}, and this"
            f" version knows {known}); start that version, or use another database"
        )
    if missing := sorted(set(range(1, newest)) - done):
        raise StartError(
            f"DATABASE_URL: streamer.migrations has {newest} but not {', '.join(map(str, missing))}:"
            " the exports table is in a state that no version has made"
        )


def _migrations() -> list[tuple[int, Traversable]]:
    """The migrations by their numbers, oldest first."""
    return sorted((int(path.name.partition("_")[0]), path) for path in SQL.joinpath("migrations").iterdir())
