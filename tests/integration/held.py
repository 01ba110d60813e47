"""An export that stands still where a test wants it, at frontiers and with bytes that the test knows.

The view's rows come in steps, and in each step stands a gate: a function that takes an advisory lock. Whoever holds the
lock holds the export. PostgreSQL gathers the rows of a COPY in a buffer of 8192 bytes and sends it when it is full, so
each step begins with a line, before its gate, that is as long as the buffer less its head: it drives out every line
before it, and its own end stays behind. The frontier is then exactly the end of the step before.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import asyncpg
import pytest

from streamer.config import Duration, Names, Settings
from streamer.server import serving
from tests.conftest import at_database, connected
from tests.rawhttp import PATIENCE, ask

HEADER = b"step,line,text\n"
PUSH = 8190 - len("1,0,\n")  # characters; with the 5 bytes that head a message in the protocol, longer than the buffer
GATE = """
    CREATE FUNCTION gate(step bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM pg_advisory_lock_shared(step);
        PERFORM pg_advisory_unlock_shared(step);
        RETURN step;
    END $$
"""
CANCEL_WAITING = """
    SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""
UNFINISHED = "SELECT count(*) FROM streamer.exports WHERE state IN ('pending', 'processing')"


@dataclass(frozen=True)
class Steps:
    """A dataset by its name, and how many lines follow the gate of each step, from step 1 on."""

    name: str
    lines: tuple[int, ...]

    @property
    def last(self) -> int:
        return len(self.lines)

    @property
    def sql(self) -> str:
        return f"""
            CREATE VIEW {self.name} AS
            SELECT CASE line WHEN 1 THEN gate(step) ELSE step END AS step, line,
                   CASE line WHEN 0 THEN repeat('.', {PUSH}) ELSE md5(step || '-' || line) END AS text
            FROM unnest(ARRAY{list(self.lines)}) WITH ORDINALITY AS steps (lines, step),
                 generate_series(0, lines) AS line
        """

    def through(self, step: int) -> bytes:
        """What can be read while the export stands at the gate that follows `step`."""
        return HEADER + b"".join(_step(number, self.lines[number - 1]) for number in range(1, step + 1))

    @property
    def whole(self) -> bytes:
        return self.through(self.last)


@cache
def _step(step: int, lines: int) -> bytes:
    texts = (hashlib.md5(f"{step}-{line}".encode()).hexdigest() for line in range(1, lines + 1))
    return "".join(f"{step},{line},{text}\n" for line, text in enumerate(["." * PUSH, *texts])).encode()


SMALL = Steps("gated", (40, 40, 40, 40, 40, 40))
BULK = Steps("bulk", (300_000, 40, 40))  # 15 MB in the first step: more than the buffers between two sockets hold


@dataclass(frozen=True)
class Held:
    """A server with the datasets, and the hand on their gates."""

    url: str
    spool: Path
    hand: "asyncpg.Connection[asyncpg.Record]"
    stop: Callable[[], Awaitable[None]]

    async def export(self, steps: Steps = SMALL, *, at: int) -> "HeldExport":
        """A new export that stands at the gate behind step `at`, with every gate from there on shut."""
        await self.shut()
        await self.open(at)
        created = await ask(self.url, "POST", f"/exports/csv?dataset={steps.name}")
        assert created.status == 202, created.body
        export = HeldExport(self, steps, created.json()["exportId"])
        await export.stands_at(at)
        return export

    async def shut(self) -> None:
        """Every gate there may be."""
        await self.hand.execute("SELECT pg_advisory_unlock_all()")
        await self.hand.execute("SELECT pg_advisory_lock(step) FROM generate_series(1, 10) AS step")

    async def open(self, through: int = 10) -> None:
        """The gates of the steps up to `through`."""
        await self.hand.execute("SELECT pg_advisory_unlock(step) FROM generate_series(1, $1::int) AS step", through)

    async def refuse(self) -> None:
        """The database goes no further: whatever waits at a gate fails."""

        async def refused() -> bool:
            return bool(await self.hand.fetch(CANCEL_WAITING))

        await eventually(refused, "nothing waits at a gate")

    async def exports(self) -> int:
        """How many there have ever been."""
        return int(await self.hand.fetchval("SELECT count(*) FROM streamer.exports"))

    async def settle(self) -> None:
        """Opens every gate, and returns when every export has ended."""
        await self.open()

        async def settled() -> bool:
            return not await self.hand.fetchval(UNFINISHED)

        await eventually(settled, "an export does not end")


@dataclass(frozen=True)
class HeldExport:
    held: Held
    steps: Steps
    id: str

    @property
    def download(self) -> str:
        return f"/exports/{self.id}/download"

    @property
    def etag(self) -> str:
        return f'"{self.id}"'

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (await ask(self.held.url, "GET", f"/exports/{self.id}/status")).json()
        return found

    async def stands_at(self, step: int) -> None:
        """Returns when everything before the gate behind `step` can be read."""
        frontier = len(self.steps.through(step))

        async def standing() -> bool:
            found: int = (await self.status())["progress"]["bytes"]
            assert found <= frontier, f"the export is at {found}, beyond {frontier}"
            return found == frontier

        await eventually(standing, f"the export does not reach the end of step {step}")

    async def becomes(self, state: str) -> None:
        async def there() -> bool:
            found: str = (await self.status())["status"]
            return found == state

        await eventually(there, f"the export does not become {state}")

    async def cancel(self) -> None:
        assert (await ask(self.held.url, "DELETE", f"/exports/{self.id}")).status == 204


async def eventually(condition: Callable[[], Awaitable[bool]], complaint: str) -> None:
    """A bounded poll."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not await condition():
        assert loop.time() < deadline, complaint
        await asyncio.sleep(0.005)


@asynccontextmanager
async def scratch_database(postgres: str) -> AsyncIterator[str]:
    """The URL of a database with the gated datasets."""
    name = f"streamer_held_{uuid4().hex[:8]}"
    async with connected(postgres) as owner:
        await owner.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        try:
            async with connected(at_database(postgres, name)) as connection:
                for statement in (GATE, SMALL.sql, BULK.sql):
                    await connection.execute(statement)
            yield at_database(postgres, name)
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Serve(Protocol):
    """Gives a server with such settings, on a database with the gated datasets."""

    async def __call__(self, **settings: Any) -> Held: ...


@asynccontextmanager
async def gated_server(
    database: str, spool: Path, datasets: Sequence[str] = (SMALL.name, BULK.name), **settings: Any
) -> AsyncIterator[Held]:
    """A server on such a database. Its exports come to their ends before it is stopped, unless a test stops it."""
    chosen = Settings(
        database_url=database,
        source_database_url=database,
        api_port=0,
        export_storage_path=spool,
        datasets=Names(datasets),
        shutdown_grace=Duration(0),
        **settings,
    )
    async with connected(database) as hand, AsyncExitStack() as server:
        held = Held(await server.enter_async_context(serving(chosen)), spool, hand, server.aclose)
        try:
            yield held
        finally:
            await held.settle()


@asynccontextmanager
async def gated_servers(
    database: str, folders: pytest.TempPathFactory, datasets: Sequence[str] = (SMALL.name, BULK.name)
) -> AsyncIterator[Serve]:
    """For a whole module: each is started when it is first asked for, the same one for the same settings."""
    started: dict[str, Held] = {}
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Held:
            name = str(settings)
            if name not in started:
                server = gated_server(database, folders.mktemp("spool"), datasets, **settings)
                started[name] = await stack.enter_async_context(server)
            return started[name]

        yield start


@asynccontextmanager
async def settled(servers: Serve) -> AsyncIterator[Serve]:
    """For one test: each of those that it asks for has nothing to do before and after."""
    used: list[Held] = []

    async def start(**settings: Any) -> Held:
        used.append(await servers(**settings))
        return used[-1]

    yield start
    for held in used:
        await held.settle()
