"""The session of a server, on a real PostgreSQL: its lock, what it hears, and whom it takes for dead."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from streamer.jobs.presence import Presence
from streamer.jobs.servers import LOCK_CLASS, Servers
from streamer.jobs.times import JobTimes
from streamer.postgres.driver import Connection, Pool
from tests.conftest import connected
from tests.polling import until

FOLDER = UUID(int=1)
QUICK = JobTimes(beat_interval=0.02, session_timeout=1.0, dead_after=timedelta(seconds=0.2), judging_age=0.0)
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::oid AND granted"


class Server:
    """One server that has a session. `session_pid` is that of its backend."""

    def __init__(self, pool: Pool, url: str, times: JobTimes) -> None:
        self.id = uuid4()
        self.pool = pool
        self.url = url
        self.heard: list[str] = []
        self.buried: list[UUID] = []
        self.sessions: list[Any] = []
        self.servers = Servers(pool, self.id, times, folder=FOLDER)
        self.presence = Presence(*(self.servers, self._connect), hear=self.heard.append, bury=self._bury, times=times)

    async def _connect(self) -> Connection:
        self.sessions.append(await asyncpg.connect(self.url))
        return self.sessions[-1]

    async def _bury(self, dead: Sequence[UUID]) -> None:
        self.buried += dead

    async def row(self) -> Any:
        return await self.pool.fetchrow("SELECT * FROM streamer.servers WHERE id = $1", self.id)

    async def is_locked(self) -> bool:
        row = await self.row()
        return row is not None and row["lock_key"] is not None

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.presence.run())
        try:
            await until(self.is_locked, "the server holds its lock")
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def server(pool: Pool, database: str) -> Callable[..., Server]:
    return lambda times=QUICK: Server(pool, database, times)


MakeServer = Callable[..., Server]


async def test_a_server_holds_its_lock_and_beats_while_it_is_present(server: MakeServer, pool: Pool) -> None:
    one = server()
    async with one.present():
        assert await pool.fetchval(LOCKS, LOCK_CLASS) == 1
        first = (await one.row())["beat_at"]

        async def beaten() -> bool:
            return bool((await one.row())["beat_at"] > first)

        await until(beaten, "there is another sign of life")
    assert await pool.fetchval(LOCKS, LOCK_CLASS) == 0
    assert (await one.row())["lock_key"] is None


async def test_what_is_announced_is_heard_and_the_probe_is_not(server: MakeServer) -> None:
    one, other = server(), server()
    async with one.present(), other.present():
        await other.servers.announce("an announcement")

        async def heard() -> bool:
            return "an announcement" in one.heard and "an announcement" in other.heard

        await until(heard, "both have heard it")
        assert not [text for text in other.heard if "probe" in text]


async def test_a_server_that_has_died_is_buried_once_by_one_of_the_others(server: MakeServer, pool: Pool) -> None:
    dead, *others = [server() for _ in range(3)]
    async with others[0].present(), others[1].present():
        async with dead.present():
            lock_key = (await dead.row())["lock_key"]
        await dead.servers.beat()
        await pool.execute("UPDATE streamer.servers SET lock_key = $2 WHERE id = $1", dead.id, lock_key)

        async def buried() -> bool:
            return bool(others[0].buried or others[1].buried)

        await until(buried, "its death is noticed")
        await asyncio.sleep(0.1)
    assert others[0].buried + others[1].buried == [dead.id]
    assert await dead.row() is None


async def test_a_server_that_holds_its_lock_is_alive_whatever_its_signs_of_life(server: MakeServer, pool: Pool) -> None:
    """As one that is paused: its exports wait for the end of their leases."""
    paused, other = server(JobTimes(beat_interval=3600.0)), server()
    async with paused.present(), other.present():
        await pool.execute("UPDATE streamer.servers SET beat_at = '-infinity' WHERE id = $1", paused.id)
        await asyncio.sleep(0.3)
    assert other.buried == []


async def test_a_server_without_a_session_is_judged_by_its_leases_alone(server: MakeServer, pool: Pool) -> None:
    pooled, other = server(), server()
    await pooled.servers.beat()
    await pool.execute("UPDATE streamer.servers SET beat_at = '-infinity' WHERE id = $1", pooled.id)
    async with other.present():
        await asyncio.sleep(0.3)
    assert other.buried == []


async def test_a_restart_of_the_database_declares_nobody_dead(server: MakeServer, database: str) -> None:
    """All locks are free then. Nobody judges before all have had the time to come back."""
    cautious = JobTimes(beat_interval=0.02, dead_after=timedelta(0), judging_age=2.0)
    servers = [server(cautious) for _ in range(3)]
    async with servers[0].present(), servers[1].present(), servers[2].present(), connected(database) as connection:
        for restart in (1, 2):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

            async def back(restart: int = restart) -> bool:
                locks = await connection.fetchval(LOCKS, LOCK_CLASS)
                return bool(locks == 3) and all(len(each.sessions) > restart for each in servers)

            await until(back, "all sessions are back")
    assert [each.buried for each in servers] == [[], [], []]


async def test_a_session_that_is_lost_is_opened_again(server: MakeServer, pool: Pool, database: str) -> None:
    one = server()
    async with one.present():
        one.sessions[0].terminate()

        async def again() -> bool:
            return len(one.sessions) > 1 and await one.is_locked()

        await until(again, "there is another session")
        await one.servers.announce("an announcement")

        async def heard() -> bool:
            return "an announcement" in one.heard

        await until(heard, "it hears again")


async def test_without_announcements_there_is_one_warning_and_no_lock(
    server: MakeServer, pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that lends sessions for one transaction."""
    one = server(JobTimes(session_timeout=0.05))
    monkeypatch.setattr(one.servers, "announce", _nothing)
    task = asyncio.create_task(one.presence.run())

    async def warned() -> bool:
        return "announcements do not come back" in caplog.text

    await until(warned, "the server warns")
    assert await pool.fetchval(LOCKS, LOCK_CLASS) == 0
    assert one.sessions[0].is_closed()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    task.cancel()
    await asyncio.wait({task})


async def _nothing(_: str) -> None:
    pass


async def test_servers_that_died_long_ago_are_forgotten(server: MakeServer, pool: Pool) -> None:
    first, second = server(), server()
    for each in (first, second):
        await each.servers.beat()
    await pool.execute("UPDATE streamer.servers SET beat_at = '-infinity' WHERE id = $1", first.id)
    await second.servers.leave()
    assert await pool.fetchval("SELECT count(*) FROM streamer.servers") == 0
