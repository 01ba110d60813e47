"""Three servers on one folder and one table; one after the other dies or is paused at a statement.

The statements are those of the queue, of a run and of its end. A crowd of clients asks all servers at random. A server
that is paused longer than its lease finds its exports run by others when it wakes. What must hold is what must hold
after a crash of a single server: see test_crash_sweep.py. So the bytes that any client has of an export from any server
are the beginning of what every server serves of it later.

The points come in turns, and the moments are drawn; the seed is printed. By default there are a few troubles, and
`-m sweep` makes 200.
"""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle, product
from pathlib import Path

import pytest

from tests.acceptance.process import Process, streamer
from tests.conftest import connected
from tests.faults.client import Answer, Client
from tests.faults.crowd import DATASETS, SOURCE, Crowd, Judge, busy, changing
from tests.faults.mortal_server import LEASE
from tests.polling import met

SERVERS = 3
STATEMENTS = (
    *("lock_queue", "begin", "insert", "next", "claim", "COMMIT"),
    *("note_progress", "note_served", "complete", "renew_leases", "reclaim"),
)
POINTS = tuple(product(STATEMENTS, ("before", "after"), ("SIGKILL", "SIGSTOP")))
MAX_COUNT = 4  # executions of a statement before the one at which a server dies
LATEST = 3.0  # seconds until a server that has not come to its statement is killed anyhow


class Anyone(Client):
    """Asks any of the servers that are there."""

    def __init__(self, urls: list[str], chance: random.Random) -> None:
        self.urls = urls
        self._chance = chance
        super().__init__("")

    async def _ask(self, answer: Answer, method: str, target: str, fields: dict[str, str]) -> None:
        self.url = self._chance.choice(self.urls)
        await super()._ask(answer, method, target, fields)


class Cluster:
    def __init__(self, database: str, folder: Path, seed: int) -> None:
        self._database = database
        self._folder = folder
        self._chance = random.Random(seed)
        self._judge = Judge(database, folder / "spool")
        self.killed = self.paused = self.exports = self.bodies = 0

    async def suffer(self, times: int) -> list[str]:
        """What should not have been."""
        flaws: list[str] = []
        points = list(POINTS)
        self._chance.shuffle(points)
        async with self._serving() as first, self._serving() as second:
            others = [await first.url(), await second.url()]
            for number, point in zip(range(times), cycle(points), strict=False):
                crowd = Crowd(Anyone(others, self._chance), self._chance)
                await self._trouble(point, crowd, others)
                crowd.client = Client(self._chance.choice(others))
                flaws += [f"trouble {number} ({' '.join(point)}): {flaw}" for flaw in await self._judge.judge(crowd)]
                self.exports += len(crowd.exports)
                self.bodies += crowd.bodies
        return flaws

    async def _trouble(self, point: tuple[str, str, str], crowd: Crowd, others: list[str]) -> None:
        """One server of three comes to its point; a paused one goes on when others have its exports."""
        count = self._chance.randint(1, MAX_COUNT)
        async with self._serving(f"{' '.join(point)} {count}") as victim:
            crowd.client = Anyone([await victim.url(), *others], self._chance)
            async with changing(self._database, self._chance), busy(crowd):
                stopped = await met(lambda: _is_stopped(victim.pid), LATEST)
                if stopped and point[2] == "SIGSTOP":
                    await asyncio.sleep(LEASE * (0.5 + self._chance.random()))
                    victim.signal(signal.SIGCONT)
                    self.paused += 1
                    await asyncio.sleep(self._chance.random())
                with suppress(ProcessLookupError):  # it has died at its statement
                    victim.signal(signal.SIGKILL)
                await victim.exit_code()
                self.killed += 1

    @asynccontextmanager
    async def _serving(self, dies_at: str = "") -> AsyncIterator[Process]:
        environment = {
            "DATABASE_URL": self._database,
            "DATASETS": ",".join(DATASETS),
            "API_PORT": "0",
            "SPOOL_DISK_RESERVE": "0",
            "MAX_CONCURRENT_EXPORTS": "2",
            "DIES_AT": dies_at,
        }
        command = (sys.executable, "-m", "tests.faults.mortal_server")
        async with streamer(folder=self._folder, environment=environment, command=command) as process:
            yield process


async def _is_stopped(pid: int) -> bool:
    """Whether a process is paused, or has died."""
    return _state_of(pid) in "TZX"


def _state_of(pid: int) -> str:
    """As /proc has it: T is stopped, Z a zombie, X dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


@pytest.mark.parametrize(
    "times",
    [pytest.param(4, id="4"), pytest.param(200, id="200", marks=[pytest.mark.sweep, pytest.mark.timeout(7200)])],
)
async def test_whichever_server_dies_or_sleeps_at_a_statement_the_others_go_on(
    database: str, tmp_path: Path, seed: int, times: int
) -> None:
    async with connected(database) as connection:
        await connection.execute(SOURCE)
    cluster = Cluster(database, tmp_path, seed)
    flaws = await cluster.suffer(times)
    print(
        f"{cluster.killed} killed, {cluster.paused} of them paused before, {cluster.exports} exports,"
        f" {cluster.bodies} bodies, {len(flaws)} violations"
    )
    assert not flaws, "\n".join(flaws)
