"""A server with datasets whose exports stand still where a test wants them, seen by a client that sees every byte."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from streamer.config import Duration, Names, Settings
from streamer.http.net.readiness import WriteReadiness
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import connected, new_database
from tests.gates import UNLOCK, Gates, Steps
from tests.polling import until
from tests.rawhttp import ask

SMALL = Steps.of("gated", 40, 40, 40, 40, 40, 40, width=1)
BULK = Steps.of("bulk", 300_000, 40, 40, width=1)  # 12 MB in the first step: more than two sockets hold
LARGE = Steps.of("large", 8000, 2000, 2000, width=20)  # 5 MB in the first step, in long rows
ALL = (SMALL, BULK, LARGE)
UNFINISHED = "SELECT count(*) FROM streamer.exports WHERE state IN ('pending', 'processing')"


@dataclass(frozen=True)
class Held:
    """A server with the datasets, and the hand on their gates."""

    url: str
    spool: Path
    gates: Gates
    stop: Callable[[], Awaitable[None]]

    async def export(self, steps: Steps = SMALL, *, at: int) -> "HeldExport":
        """A new export that stands at the gate behind step `at`, with every gate from there on shut."""
        await self.shut()
        await self.open(at)
        export = await self.created(steps)
        await export.stands_at(at)
        return export

    async def completed(self, steps: Steps) -> "HeldExport":
        """A new export that has ended well; every gate is open."""
        await self.open()
        export = await self.created(steps)
        await export.becomes("completed")
        return export

    async def created(self, steps: Steps) -> "HeldExport":
        """A new export."""
        answer = await ask(self.url, "POST", f"/exports/csv?dataset={steps.name}")
        assert answer.status == 202, answer.body
        return HeldExport(self, steps, answer.json()["exportId"])

    async def shut(self) -> None:
        """Every gate there may be."""
        await self.gates.connection.execute("SELECT pg_advisory_unlock_all()")
        for steps in ALL:
            await self.gates.shut(steps.name, *steps.gates)

    async def open(self, through: int | None = None) -> None:
        """The gates of the steps up to `through`, shut or not."""
        for steps in ALL:
            await self.gates.connection.execute(UNLOCK, steps.name, steps.gates[:through])

    async def exports(self) -> int:
        """How many there have ever been."""
        return int(await self.gates.connection.fetchval("SELECT count(*) FROM streamer.exports"))

    async def settle(self) -> None:
        """Opens every gate, and returns when every export has ended."""
        await self.open()

        async def settled() -> bool:
            return not await self.gates.connection.fetchval(UNFINISHED)

        await until(settled, "an export does not end")


@dataclass(frozen=True)
class HeldExport:
    held: Held
    steps: Steps
    id: str

    @property
    def download(self) -> str:
        return f"/exports/{self.id}/download"

    @property
    def url(self) -> str:
        return f"{self.held.url}{self.download}"

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

        await until(standing, f"the export does not reach the end of step {step}")

    async def becomes(self, state: str) -> None:
        async def there() -> bool:
            found: str = (await self.status())["status"]
            return found == state

        await until(there, f"the export does not become {state}")

    async def fail(self) -> None:
        """The database refuses to go on with what stands at a gate."""
        await self.held.gates.refuse()
        await self.becomes("failed")

    async def cancel(self) -> None:
        assert (await ask(self.held.url, "DELETE", f"/exports/{self.id}")).status == 204


async def until_stuck(clients: int) -> None:
    """Waits until the sockets of so many clients are full: one of the first may hold megabytes."""

    async def stuck() -> bool:
        rooms = [found for found in gc.get_objects() if type(found) is WriteReadiness]
        return sum(not each.turn.done() for room in rooms for each in room._waiters.values()) == clients

    await until(stuck, "a client that does not read still gets more")


@asynccontextmanager
async def scratch_database(postgres: str) -> AsyncIterator[str]:
    """The URL of a database with the datasets of `ALL`."""
    async with new_database(postgres) as url:
        async with connected(url) as connection:
            for steps in ALL:
                await Gates(connection, url).make(steps)
        yield url


class Serve(Protocol):
    """Gives a server with such settings, on a database with the gated datasets."""

    async def __call__(self, **settings: Any) -> Held: ...


@asynccontextmanager
async def gated_server(
    database: str,
    spool: Path,
    datasets: Sequence[str] = (SMALL.name, BULK.name),
    *,
    tuning: Tuning | None = None,
    **settings: Any,
) -> AsyncIterator[Held]:
    """A server on such a database. Its exports come to their ends before it is stopped, unless a test stops it."""
    usual: dict[str, Any] = {
        "database_url": database,
        "source_database_url": database,
        "api_port": 0,
        "export_storage_path": spool,
        "datasets": Names(datasets),
        "shutdown_timeout": Duration(0),
    }
    chosen = Settings(**{**usual, **settings})
    async with connected(database) as hand, AsyncExitStack() as server:
        url = await server.enter_async_context(serving(chosen, tuning=tuning))
        held = Held(url, spool, Gates(hand, database), server.aclose)
        try:
            yield held
        finally:
            await held.settle()


@asynccontextmanager
async def lone_gated_server(postgres: str, spool: Path, **settings: Any) -> AsyncIterator[Held]:
    """A gated server on a database of its own."""
    async with scratch_database(postgres) as database, gated_server(database, spool, **settings) as held:
        yield held


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
