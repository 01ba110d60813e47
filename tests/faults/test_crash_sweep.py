"""kill -9 of the real server at random moments, in the middle of a crowd of clients; then a restart on what is left.

What must hold after every crash: each export that was accepted is final within seconds, or was run again and is; what
any client had of an id is the beginning of all that the id serves later, or the id serves nothing any more; what ended
well was the whole; what was deleted stays deleted; no file is there that no row wants; a new export works.

The moments are drawn; the seed is printed. By default there are a few crashes; `-m sweep` makes 200.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.acceptance.process import Process, streamer
from tests.conftest import connected
from tests.faults.client import Client
from tests.faults.crowd import DATASETS, SOURCE, Crowd, Judge, busy, changing

LATEST = 1.0  # seconds of work before a crash
STARTING = 1.5  # seconds in which a server starts, more or less
START_CRASHES = 0.2  # of the crashes are followed by one during the start


class Crashing:
    """One folder, one database, and a server that is killed again and again."""

    def __init__(self, database: str, folder: Path, seed: int) -> None:
        self._database = database
        self._folder = folder
        self._chance = random.Random(seed)
        self._judge = Judge(database, folder / "spool")
        self.crashes = 0
        self.exports = 0
        self.bodies = 0
        self.gone = 0

    async def crash(self, times: int) -> list[str]:
        """What should not have been."""
        flaws: list[str] = []
        crowd: Crowd | None = None
        while self.crashes < times:
            async with self._serving() as process:
                client = Client(await process.url())
                if crowd is not None:
                    crowd.client = client
                    flaws += [f"crash {self.crashes}: {flaw}" for flaw in await self._judge.judge(crowd)]
                    self.exports += len(crowd.exports)
                    self.bodies += crowd.bodies
                    self.gone += crowd.gone
                crowd = Crowd(client, self._chance)
                async with changing(self._database, self._chance), busy(crowd):
                    await asyncio.sleep(self._chance.random() * LATEST)
                    await self._kill(process)
            if self._chance.random() < START_CRASHES:
                async with self._serving() as process:
                    await asyncio.sleep(self._chance.random() * STARTING)
                    await self._kill(process)
        assert crowd
        async with self._serving() as process:
            crowd.client = Client(await process.url())
            flaws += [f"crash {self.crashes}: {flaw}" for flaw in await self._judge.judge(crowd)]
        return flaws

    async def _kill(self, process: Process) -> None:
        process.signal(signal.SIGKILL)
        await process.exit_code()
        self.crashes += 1

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[Process]:
        environment = {
            "DATABASE_URL": self._database,
            "DATASETS": ",".join(DATASETS),
            "API_PORT": "0",
            "SPOOL_DISK_RESERVE": "0",
        }
        async with streamer("serve", folder=self._folder, environment=environment) as process:
            yield process


@pytest.mark.parametrize(
    "crashes",
    [pytest.param(5, id="5"), pytest.param(200, id="200", marks=[pytest.mark.sweep, pytest.mark.timeout(3600)])],
)
async def test_after_a_crash_nothing_lies_hangs_or_is_left_over(
    database: str, tmp_path: Path, seed: int, crashes: int
) -> None:
    async with connected(database) as connection:
        await connection.execute(SOURCE)
    crashing = Crashing(database, tmp_path, seed)
    flaws = await crashing.crash(crashes)
    print(
        f"{crashing.crashes} crashes, {crashing.exports} exports, {crashing.bodies} bodies,"
        f" {crashing.gone} compressed files gone, {len(flaws)} violations"
    )
    assert not flaws, "\n".join(flaws)
