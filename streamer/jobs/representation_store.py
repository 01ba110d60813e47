"""The table of compressed representations: the truth about the state and the bytes of each.

As in the exports table, every statement of the process that makes a representation names that process and the
generation, and returns a row only if it changed one: no row means that another server has taken over.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from streamer.coding import Coding
from streamer.jobs.table import Table
from streamer.jobs.times import JobTimes
from streamer.model import Representation
from streamer.postgres.driver import Pool
from streamer.postgres.statements import read_all_sql
from streamer.spool.names import SpoolName

STATEMENTS = read_all_sql("streamer.jobs", "sql/representations")

UsedAt = tuple[datetime, UUID, Coding]
"""A place in the order of use of completed representations: the last use of one, its export and its coding."""


class RepresentationStore(Table):
    """The representations that the server process `server_id` makes, and those of all others.

    Every method raises Unavailable.
    """

    statements = STATEMENTS

    def __init__(self, pool: Pool, server_id: UUID, times: JobTimes) -> None:
        super().__init__(pool, times)
        self._server_id = server_id
        self._lease = times.lease

    async def get(self, name: SpoolName) -> Representation | None:
        return await self._one("get", name.export_id, name.coding)

    async def begin(self, name: SpoolName, coder: str, folder: UUID, *, is_lost: bool) -> Representation | None:
        """Gives this server the right to make the representation, with its file in `folder`.

        `is_lost` says that the file of a completed one is not there. Returns None if another server makes it, if it is
        completed, or if the export is gone. A row that was there before tells what may have been served.
        """
        return await self._one("begin", *name, self._server_id, coder, self._lease, folder, is_lost)

    async def restart(self, name: SpoolName, coder: str) -> Representation | None:
        """Begins the next generation. Returns None if another server has taken over."""
        return await self._one("restart", *name, self._server_id, coder)

    async def note_flush(self, made: Representation, position: int) -> bool:
        """Notes that it is about to be flushed there. Returns False as `complete` None."""
        return bool(await self._rows("note_flush", *self._run(made), position))

    async def note_served(self, made: Representation, length: int, sha256: bytes, flushes: bytes) -> bool:
        """Notes what clients may have of a file that is about to be made again. Returns False as `complete` None."""
        return bool(await self._rows("note_served", *self._run(made), length, sha256, flushes))

    async def flushes(self, made: Representation) -> tuple[int, ...]:
        """Returns the positions that were noted for a representation that is not finished."""
        rows = await self._rows("flushes", made.export_id, made.coding, made.generation)
        return tuple(row["position"] for row in rows)

    async def complete(self, made: Representation, length: int, sha256: bytes, flushes: bytes) -> Representation | None:
        """processing → completed. Returns None if another server has taken over."""
        return await self._one("complete", *self._run(made), length, sha256, flushes)

    async def fail(self, made: Representation, length: int, sha256: bytes, flushes: bytes, reason: str) -> bool:
        """processing → failed, with what proves the bytes that were served. Returns False as `complete` None."""
        return bool(await self._rows("fail", *self._run(made), length, sha256, flushes, reason))

    async def renew_lease(self, made: Representation) -> None:
        await self._rows("renew_lease", *self._run(made), self._lease)

    async def expire_leases(self, dead: Sequence[UUID]) -> None:
        """Lets other servers take over at once what these dead servers were making."""
        await self._rows("expire_leases", dead)

    async def note_used(self, name: SpoolName) -> None:
        """Notes that a download has begun, to the minute."""
        await self._rows("note_used", *name)

    async def note_removed(self, names: Sequence[SpoolName]) -> list[SpoolName]:
        """Notes that files are about to be removed. Returns those for which that is new."""
        return _names(await self._rows("note_removed", *_columns(names)))

    async def least_used(self, folder: UUID, after: UsedAt | None, read: Sequence[UUID], limit: int) -> list[UsedAt]:
        """Returns completed representations in `folder`, least recently used first, after a place in that order.

        Those of the exports in `read` are left out.
        """
        used_at, export_id, coding = after or (None, UUID(int=0), "")
        rows = await self._rows("least_used", folder, used_at, export_id, coding, read, limit)
        return [(row["used_at"], row["export_id"], Coding(row["coding"])) for row in rows]

    async def garbage(self, folder: UUID, found: Sequence[SpoolName]) -> list[SpoolName]:
        """Returns, of the compressed files that were found in `folder`, those without a use."""
        return _names(await self._rows("garbage", folder, *_columns(found)))

    def _run(self, made: Representation) -> tuple[object, ...]:
        return made.export_id, made.coding, self._server_id, made.generation

    async def _one(self, statement: str, *arguments: object) -> Representation | None:
        rows = await self._rows(statement, *arguments)
        return Representation.from_row(rows[0]) if rows else None


def _columns(names: Sequence[SpoolName]) -> tuple[list[UUID], list[Coding]]:
    return [name.export_id for name in names], [name.coding for name in names]


def _names(rows: Sequence[asyncpg.Record]) -> list[SpoolName]:
    return [SpoolName(row["export_id"], Coding(row["coding"])) for row in rows]
