"""The exports table: the truth about every export's state.

Every statement that changes a state names the states that it may leave, and returns a row only if it changed one: no
row means that another server, or another request, was first.

Every statement of a run names the server and the epoch of its claim. A claim raises the epoch, so a server that was
paused until its export was run elsewhere changes nothing, even if it has claimed the export again meanwhile.

The table is in a schema of its own, `streamer`, so that it cannot meet a table of the user. Changes to it are numbered
files in sql/migrations/, each applied once, in order, under an advisory lock. A table that a newer version has changed
is left alone, because the meaning of its columns is not known here.

The table may hold rows of a newer version, written by a server that runs beside this one. `spec_version` tells so in
SQL, and a request that this version cannot read is never taken over.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from streamer.errors import NotFound, StartError
from streamer.jobs.table import Table
from streamer.jobs.times import JobTimes
from streamer.model import (
    SPEC_VERSION,
    Export,
    ExportFilter,
    Place,
    Principal,
    Progress,
    Viewer,
    dataset_in_json,
    folded,
    read_spec,
    visible_name,
)
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.failures import CONNECTION_LOST, one_line
from streamer.postgres.statements import read_all_sql
from streamer.spool.spool import Sealed

MIGRATIONS = {
    int(name.partition("_")[0]): statements
    for name, statements in read_all_sql("streamer.jobs", "sql/migrations").items()
}
"""The statements of each migration by its number, oldest first."""

MIGRATION_LOCK = 0x73747265616D  # "stream": a fixed number that no other program is likely to use
MAX_PAGE_SPECS = 32 * 1024  # bytes of the requests in one page of the list; the last one may exceed it
MAX_ATTEMPTS = 3  # to run an export of which no byte has been served
ELSEWHERE = "keep the table in another database, and set SOURCE_DATABASE_URL to this one"

UsedAt = tuple[datetime, UUID]
"""A place in the order of use of completed exports: the last use of one, and its id."""

RemovedAt = tuple[datetime, UUID]
"""A place in the order in which files were removed: the time of one removal, and the id of the export."""


class Store(Table):
    """The exports of the server process `server_id`, and a view of all others. Every method raises Unavailable."""

    def __init__(self, pool: Pool, server_id: UUID, times: JobTimes) -> None:
        super().__init__(pool, times)
        self._server_id = server_id

    async def migrate(self) -> None:
        """Brings the table to this version. Raises StartError."""
        try:
            # READ COMMITTED, to see the migrations of another server that held the lock.
            async with self._pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
                await _migrate(connection)
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            sentence = f"the table of exports cannot be created: {one_line(error)}"
            raise StartError(f"{sentence}{await self._remedy(error)}") from error

    async def _remedy(self, error: BaseException) -> str:
        """Returns what to do about an error of the migration, to be put behind its sentence."""
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            return f"; {ELSEWHERE}"
        if not isinstance(error, asyncpg.InsufficientPrivilegeError):
            return ""
        role, database, exists = await self._pool.fetchrow(
            "SELECT quote_ident(current_user), quote_ident(current_database()), to_regnamespace('streamer') IS NOT NULL"
        )
        if exists:
            return "; the schema streamer belongs to another role: log in as that role"
        return f"; GRANT CREATE ON DATABASE {database} TO {role}, or {ELSEWHERE}"

    async def identity(self) -> UUID:
        """Returns the id of this exports table, which distinguishes it from all others."""
        rows = await self._rows("identity")
        return UUID(str(rows[0]["id"]))

    async def by_key(self, principal: Principal, key: str) -> Export | None:
        """Returns the export that the principal has submitted with this idempotency key."""
        return await self._find("by_key", principal.name, key)

    async def get(self, export_id: UUID, viewer: Viewer) -> Export:
        """Raises NotFound, also for an export that the viewer may not see."""
        export = await self._find("get", export_id, visible_name(viewer))
        if export is None:
            raise not_found(export_id)
        return export

    async def page(
        self, viewer: Viewer, wanted: ExportFilter, before: Place | None, limit: int
    ) -> tuple[list[Export], bool]:
        """Returns the newest exports that the filter selects and the viewer may see, and whether there are more."""
        created_at, export_id = before or (None, UUID(int=0))
        rows = await self._rows(
            "page",
            list(wanted.states),
            created_at,
            export_id,
            limit,
            MAX_PAGE_SPECS,
            None if wanted.label is None else folded(wanted.label),
            None if wanted.dataset is None else dataset_in_json(wanted.dataset),
            visible_name(viewer),
        )
        return [Export.from_row(row) for row in rows], bool(rows) and rows[0]["found"] > len(rows)

    async def note_progress(self, export_id: UUID, epoch: int, snapshot_at: datetime, progress: Progress) -> bool:
        """Returns False if this server may not run the export any more."""
        return await self._changes(
            "note_progress",
            export_id,
            self._server_id,
            epoch,
            snapshot_at,
            progress.total_rows,
            progress.processed_rows,
            progress.bytes,
            progress.percentage,
            progress.rows_per_second,
        )

    async def note_served(self, export_id: UUID, epoch: int) -> bool:
        """Notes that a byte is about to be sent. Returns False if this server may not run the export any more."""
        return await self._changes("note_served", export_id, self._server_id, epoch)

    async def requeue(self, export_id: UUID, epoch: int, delay: timedelta, percentage: float) -> bool:
        """processing → pending, after a delay. Returns False after the last attempt, or if a byte was served.

        `percentage`, here and below, is the highest that was shown.
        """
        return await self._changes("requeue", export_id, self._server_id, epoch, delay, MAX_ATTEMPTS, percentage)

    async def wait_for_source(self, export_id: UUID, epoch: int, delay: timedelta) -> bool:
        """processing → pending, after a delay, without counting the attempt. Returns False if a byte was served."""
        return await self._changes("wait_for_source", export_id, self._server_id, epoch, delay)

    async def release(self, export_id: UUID, epoch: int, percentage: float) -> bool:
        """processing → pending, without counting the attempt. Returns False if a byte was served."""
        return await self._changes("release", export_id, self._server_id, epoch, percentage)

    async def complete(
        self,
        export_id: UUID,
        epoch: int,
        sealed: Sealed,
        rows_per_second: int,
        *,
        truncated: bool,
        snapshot_at: datetime,
    ) -> bool:
        """processing → completed. Returns False if the export was cancelled or taken over meanwhile."""
        return await self._changes(
            *("complete", export_id, self._server_id, epoch, sealed.rows, sealed.length, sealed.sha256),
            *(rows_per_second, truncated, snapshot_at),
        )

    async def fail(self, export_id: UUID, epoch: int, reason: str, percentage: float) -> bool:
        """processing → failed. Returns False if this server may not run the export any more."""
        return await self._changes("fail", export_id, self._server_id, epoch, reason, percentage)

    async def cancel(self, export_id: UUID, viewer: Viewer, percentage: float) -> Export | None:
        """pending or processing → cancelled. Returns None if it has ended, or does not exist for the viewer."""
        return await self._find("cancel", export_id, percentage, visible_name(viewer))

    async def note_removed(self, export_ids: Sequence[UUID]) -> list[UUID]:
        """Notes that files of finished exports are about to be removed. Returns those for which that is new."""
        return await self._ids("note_removed", export_ids)

    async def renew_leases(self, running: Sequence[UUID]) -> None:
        await self._rows("renew_leases", self._server_id, self._times.lease, running)

    async def lost(self, waiting: Sequence[UUID]) -> dict[UUID, str]:
        """Returns the states of those that have ended, or are run by another server."""
        return {row["id"]: row["state"] for row in await self._rows("lost", self._server_id, waiting)}

    async def reclaim(self, dead: Sequence[UUID], running: Sequence[UUID]) -> list[UUID]:
        """Queues the exports of dead servers that may be run again, and that this version can read."""
        orphans = await self._rows("orphans", dead, MAX_ATTEMPTS, running, SPEC_VERSION)
        readable = [row["id"] for row in orphans if read_spec(row)]
        if not readable:
            return []
        return await self._ids("reclaim", dead, MAX_ATTEMPTS, readable)

    async def fail_orphans(
        self, dead: Sequence[UUID], running: Sequence[UUID], *, served: str, exhausted: str
    ) -> list[Export]:
        """Fails the exports of dead servers that may not be run again, each with one of the two reasons."""
        rows = await self._rows("fail_orphans", served, exhausted, dead, MAX_ATTEMPTS, running)
        return [Export.from_row(row) for row in rows]

    async def note_used(self, export_id: UUID) -> None:
        """Notes that a download has begun, to the minute."""
        await self._rows("note_used", export_id)

    async def expired(self, folder: UUID, ttl: timedelta, read: Sequence[UUID], limit: int) -> list[UUID]:
        """Returns completed exports in `folder` that are older than `ttl`, or than their own, which is shorter.

        Those in `read` are left out.
        """
        return await self._ids("expired", folder, ttl, read, limit)

    async def least_used(self, folder: UUID, after: UsedAt | None, read: Sequence[UUID], limit: int) -> list[UsedAt]:
        """Returns completed exports in `folder`, least recently used first, after a place in that order.

        Those in `read` are left out.
        """
        used_at, export_id = after or (None, UUID(int=0))
        rows = await self._rows("least_used", folder, used_at, export_id, read, limit)
        return [(row["used_at"], row["id"]) for row in rows]

    async def without_file(self, folder: UUID, age: timedelta, after: RemovedAt | None, limit: int) -> list[RemovedAt]:
        """Returns exports of `folder`, or of none, whose files were removed more than `age` ago, oldest first."""
        removed_since, export_id = after or (None, UUID(int=0))
        rows = await self._rows("without_file", folder, age, removed_since, export_id, limit)
        return [(row["removed_since"], row["id"]) for row in rows]

    async def delete_rows(self, export_ids: Sequence[UUID]) -> int:
        """Deletes the rows of exports that have no file. Returns their number."""
        return len(await self._rows("delete_rows", export_ids))

    async def locate(self, folder: UUID, found: Sequence[UUID]) -> None:
        """Notes the folder of exports of older versions, whose files were found in it."""
        await self._rows("locate", folder, found)

    async def garbage(self, folder: UUID, found: Sequence[UUID], sizes: Sequence[int]) -> list[UUID]:
        """Returns, of the exports whose files of these sizes (bytes) were found in `folder`, those without a use."""
        return await self._ids("garbage", folder, found, sizes)

    async def unknown(self, found: Sequence[UUID]) -> list[UUID]:
        """Returns those that have no row."""
        return await self._ids("unknown", found)


def not_found(export_id: UUID) -> NotFound:
    return NotFound(f"there is no export {export_id}")


async def _migrate(connection: Connection) -> None:
    if await connection.fetchval("SELECT to_regclass('streamer.migrations')") is None:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS streamer")
        await connection.execute("CREATE TABLE streamer.migrations (version integer PRIMARY KEY)")
    done = {row["version"] for row in await connection.fetch("SELECT version FROM streamer.migrations")}
    _check_known(done)
    for version, statements in MIGRATIONS.items():
        if version not in done:
            await connection.execute(statements)
            await connection.execute("INSERT INTO streamer.migrations VALUES ($1)", version)


def _check_known(done: set[int]) -> None:
    """Raises StartError unless `done` are the first of the migrations that this version knows."""
    newest, known = max(done, default=0), max(MIGRATIONS)
    if newest > known:
        raise StartError(
            f"the exports table was changed by a newer version of streamer (migration {newest}, and this"
            f" version knows {known}); start that version, or use another database"
        )
    if missing := sorted(set(range(1, newest)) - done):
        raise StartError(
            f"streamer.migrations has {newest} but not {', '.join(map(str, missing))}:"
            " the exports table is in a state that no version has made"
        )
