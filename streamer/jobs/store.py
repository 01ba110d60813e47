"""The exports table: the truth about every export's state.

SQL lives in sql/, one statement a file, named for what it does. Every statement that changes a state names the states
it may leave, and says in its result whether it did: None means that somebody else was first.

The table has a schema of its own, `streamer`, so that it meets no table of the user's. Changes to it are numbered files
in sql/migrations/, applied once each, in order, under an advisory lock.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from uuid import UUID

import asyncpg

from streamer.errors import StartError
from streamer.model import Export, ExportSpec, Progress
from streamer.source.database import Connection, Pool
from streamer.spool.spool import Sealed

SQL = files("streamer.jobs").joinpath("sql")
MIGRATION_LOCK = 0x73747265616D  # "stream": any fixed number that nobody else is likely to take
LEASE = timedelta(seconds=30)
RENEWAL = LEASE / 3


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
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
                await _migrate(connection)
        except asyncpg.PostgresError as error:
            raise StartError(f"DATABASE_URL: the exports table cannot be made: {error}") from error

    async def insert(self, export_id: UUID, spec: ExportSpec) -> Export:
        row = await self._pool.fetchrow(self._sql["insert"], export_id, spec.to_json(), self._owner, LEASE)
        return Export.from_row(row)

    async def get(self, export_id: UUID) -> Export | None:
        return await self._change("get", export_id)

    async def claim(self) -> Export | None:
        """Takes the oldest export that waits for this owner: pending → processing."""
        return await self._change("claim", self._owner)

    async def note_progress(self, export_id: UUID, snapshot_at: datetime, progress: Progress) -> None:
        await self._pool.execute(
            self._sql["progress"],
            export_id,
            self._owner,
            snapshot_at,
            progress.total_rows,
            progress.processed_rows,
            progress.bytes,
            progress.percentage,
            progress.rows_per_second,
        )

    async def complete(self, export_id: UUID, sealed: Sealed, rows_per_second: int) -> Export | None:
        """processing → completed; None if the export was cancelled meanwhile."""
        return await self._change(
            "complete", export_id, self._owner, sealed.rows, sealed.length, sealed.sha256, rows_per_second
        )

    async def fail(self, export_id: UUID, reason: str) -> Export | None:
        return await self._change("fail", export_id, self._owner, reason)

    async def cancel(self, export_id: UUID) -> Export | None:
        return await self._change("cancel", export_id)

    async def note_removed(self, export_id: UUID) -> None:
        """The file of a finished export is gone."""
        await self._pool.execute(self._sql["remove"], export_id)

    async def renew_leases(self) -> None:
        await self._pool.execute(self._sql["renew"], self._owner, LEASE)

    async def settle_abandoned(self, reason: str) -> list[Export]:
        """Fails the exports of owners that died, and returns them."""
        return [Export.from_row(row) for row in await self._pool.fetch(self._sql["settle"], reason)]

    async def kept(self, export_ids: Iterable[UUID]) -> set[UUID]:
        """Those of `export_ids` whose file must stay."""
        return {row["id"] for row in await self._pool.fetch(self._sql["kept"], list(export_ids))}

    async def _change(self, statement: str, *arguments: object) -> Export | None:
        row = await self._pool.fetchrow(self._sql[statement], *arguments)
        return Export.from_row(row) if row else None


async def _migrate(connection: Connection) -> None:
    if await connection.fetchval("SELECT to_regclass('streamer.migrations')") is None:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS streamer")
        await connection.execute("CREATE TABLE streamer.migrations (version integer PRIMARY KEY)")
    done = {row["version"] for row in await connection.fetch("SELECT version FROM streamer.migrations")}
    for version, migration in _migrations():
        if version not in done:
            await connection.execute(migration.read_text())
            await connection.execute("INSERT INTO streamer.migrations VALUES ($1)", version)


def _migrations() -> list[tuple[int, Traversable]]:
    """The migrations by their numbers, oldest first."""
    return sorted((int(path.name.partition("_")[0]), path) for path in SQL.joinpath("migrations").iterdir())
