"""The database goes away under a server that lives, in the middle of a crowd of clients, and comes back.

It is stopped at once and started again, its backends are ended one after the other, and the network between the two
stalls, cuts and trickles. The server is never restarted: what it was doing must become final by itself, or be run again
under the same id if nobody has a byte of it. What must hold is what must hold after a crash of the server.

Leases are short here, so that what is settled by them is settled within the patience of the test. By default each
trouble comes once; `-m sweep` makes it 30 times.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from streamer.config import Duration, Names, Settings, Size
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import connected, new_database
from tests.faults.client import Client
from tests.faults.crowd import DATASETS, SOURCE, Crowd, Judge, busy, changing
from tests.proxy import Proxy, _open
from tests.restarting import OwnPostgres, own_postgres

LATEST = 0.5  # seconds of work before the trouble, and after it
LEASE = 1.5  # seconds
TUNING = Tuning(jobs=JobTimes(lease=timedelta(seconds=LEASE), renewal=timedelta(seconds=LEASE / 5)))
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'streamer' AND datname = current_database()"
TRICKLE = 512  # bytes at a time

times = pytest.mark.parametrize(
    "times", [pytest.param(1, id="1"), pytest.param(30, id="30", marks=[pytest.mark.sweep, pytest.mark.timeout(3600)])]
)
Trouble = Callable[[random.Random], Awaitable[None]]


async def violations_under(trouble: Trouble, *, direct: str, through: str, folder: Path, seed: int, times: int) -> None:
    """The server reaches the database by `through`, and this test by `direct`."""
    chance = random.Random(seed)
    settings = Settings(
        database_url=through,
        source_database_url=through,
        api_port=0,
        datasets=Names(DATASETS),
        export_storage_path=folder,
        spool_disk_reserve=Size(0),
        shutdown_timeout=Duration(0),
    )
    async with connected(direct) as connection:
        await connection.execute(SOURCE)
    judge = Judge(direct, folder)
    flaws: list[str] = []
    exports = bodies = 0
    async with serving(settings, tuning=TUNING) as url:
        for number in range(times):
            crowd = Crowd(Client(url), chance)
            async with changing(direct, chance), busy(crowd):
                await asyncio.sleep(chance.random() * LATEST)
                await trouble(chance)
                await asyncio.sleep(chance.random() * LATEST)
            flaws += [f"trouble {number}: {flaw}" for flaw in await judge.judge(crowd)]
            exports += len(crowd.exports)
            bodies += crowd.bodies
    print(f"{times} troubles, {exports} exports, {bodies} bodies, {len(flaws)} violations")
    assert not flaws, "\n".join(flaws)


async def restart(postgres: OwnPostgres, chance: random.Random) -> None:
    await postgres.stop()
    await asyncio.sleep(chance.choice([0.0, chance.random(), LEASE + chance.random()]))
    await postgres.start()


@pytest.fixture(scope="module")
def restarting() -> Iterator[OwnPostgres]:
    with own_postgres() as postgres:
        yield postgres


class Weather(Proxy):
    """The network between the server and the database."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._trickling = False
        self._ends: set[asyncio.StreamWriter] = set()

    async def stall(self, chance: random.Random) -> None:
        """Nothing comes through for a while, and nothing is lost."""
        self._flowing.clear()
        await asyncio.sleep(chance.choice([0.1, 0.5, LEASE + 0.5]))
        self._flowing.set()

    async def stall_and_cut(self, chance: random.Random) -> None:
        """What was on its way may have arrived, and its answer never comes."""
        self._flowing.clear()
        await asyncio.sleep(chance.random() / 2)
        await self.cut(chance)
        self._flowing.set()

    async def cut(self, chance: random.Random) -> None:
        """Every connection, several times within a moment."""
        for _ in range(chance.randint(1, 5)):
            for end in list(self._ends):
                end.transport.abort()
            await asyncio.sleep(chance.random() / 10)

    async def trickle(self, chance: random.Random) -> None:
        """All that comes through comes in small pieces."""
        self._trickling = True
        await asyncio.sleep(0.2 + chance.random())
        self._trickling = False

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            upstream, to_upstream = await _open(self._target)
            ends.add(to_upstream)
            self._ends |= ends
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, to_upstream))
                both.create_task(self._pass(upstream, writer))
        except (OSError, ExceptionGroup):
            pass  # cut, by this side or another
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(TRICKLE if self._trickling else 65536):
            await self._flowing.wait()
            if self._trickling:
                await asyncio.sleep(0.001)
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError("one side has gone: the other must go too")


@asynccontextmanager
async def weather(url: str) -> AsyncIterator[Weather]:
    proxy = Weather(url)
    try:
        await proxy.listen()
        yield proxy
    finally:
        await proxy.close()


@times
async def test_a_postgres_that_is_stopped_at_once_and_started_again(
    restarting: OwnPostgres, tmp_path: Path, seed: int, times: int
) -> None:
    async with new_database(restarting.url) as database:
        await violations_under(
            partial(restart, restarting), direct=database, through=database, folder=tmp_path, seed=seed, times=times
        )


@times
async def test_backends_that_are_ended_one_after_the_other(
    database: str, tmp_path: Path, seed: int, times: int
) -> None:
    async def end_each(chance: random.Random) -> None:
        async with connected(database) as connection:
            for row in await connection.fetch(BACKENDS):
                await connection.execute("SELECT pg_terminate_backend($1)", row["pid"])
                await asyncio.sleep(chance.random() / 20)

    await violations_under(end_each, direct=database, through=database, folder=tmp_path, seed=seed, times=times)


@times
@pytest.mark.parametrize("trouble", ["stall", "stall_and_cut", "cut", "trickle"])
async def test_a_network_that_fails(database: str, tmp_path: Path, seed: int, times: int, trouble: str) -> None:
    async with weather(database) as network:
        await violations_under(
            getattr(network, trouble), direct=database, through=network.url, folder=tmp_path, seed=seed, times=times
        )
