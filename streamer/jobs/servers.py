"""The table of live servers, and who of them has died.

A server writes a sign of life every second on a session of its own, on which it also holds an advisory lock. A server
is dead if its lock is free and its last sign of life is some seconds old. When the database restarts, all locks are
free, so a server judges others only when its own session is older than all of them need to come back. A server without
such a session, as behind a pooler that lends sessions for one transaction, is judged by the leases of its exports.

A server that is paused keeps its lock, and one that is cut off may be taken for dead. Neither does harm: see the epoch
in store.py.
"""

from uuid import UUID

import asyncpg

from streamer.jobs.table import STATEMENTS, Table
from streamer.jobs.times import JobTimes
from streamer.postgres.driver import Connection, Pool

LOCK_CLASS = 0x73747265  # "stre": the first half of the key of each lock
CHANNEL = "streamer"


class Servers(Table):
    """The servers as the process `server_id` sees them, whose files are in `folder`."""

    def __init__(self, pool: Pool, server_id: UUID, times: JobTimes, *, folder: UUID) -> None:
        super().__init__(pool, times)
        self._server_id = server_id
        self._folder = folder
        self._lock_key = server_id.int & 0x7FFFFFFF

    async def beat(self) -> None:
        """Notes that this server is alive."""
        await self._rows("beat", self._server_id, self._folder)

    async def leave(self) -> None:
        """Notes that this server stops, and forgets those that have died long ago."""
        await self._rows("leave", self._server_id)
        await self._rows("forget", self._times.server_lifetime)

    async def announce(self, text: str) -> None:
        """Sends a text to all listeners."""
        await self._rows("announce", text)

    async def lock(self, session: Connection) -> None:
        """Takes the lock of this server."""
        await self._ask(session, "lock_server", LOCK_CLASS, self._lock_key)

    async def beat_locked(self, session: Connection) -> None:
        """Notes that this server is alive and holds its lock."""
        await self._ask(session, "beat_locked", self._server_id, self._folder, self._lock_key)

    async def unlock(self) -> None:
        """Notes that this server holds no lock."""
        await self._rows("unlock_server", self._server_id)

    async def dead(self, session: Connection) -> list[UUID]:
        """Forgets the servers that have died, and returns their ids."""
        rows = await self._ask(session, "dead", LOCK_CLASS, self._times.dead_after)
        return [row["id"] for row in rows]

    async def _ask(self, session: Connection, statement: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await session.fetch(
            STATEMENTS[statement], *arguments, timeout=self._times.session_timeout
        )
        return rows
