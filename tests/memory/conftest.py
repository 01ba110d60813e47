"""The scenarios' database, their servers, and the table at the end.

The database is the benchmarks' own, with 10,000,000 users, kept for the next time.
"""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.bench import bench_export
from tests.conftest import new_database
from tests.memory.cgroup import LIMIT
from tests.memory.confined import HEADINGS, Confined, Used, confined
from tests.programs import PSQL

USERS = 10_000_000
COPIED = "-c synchronize_seqscans=off -c timezone=UTC -c datestyle=ISO -c client_encoding=UTF8"


class Report:
    """What the scenarios found out."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, scenario: str, used: Used, *figures: str) -> None:
        """Fails if the limit was ever near: a fifth of it must have been left."""
        self._lines += [f"{scenario:<44}{used}", *(f"    {figure}" for figure in figures)]
        if used.group not in "".join(self._lines[:1]):
            self._lines.insert(0, f"{used.group}, limit {LIMIT >> 20} MB")
        assert used.oom_kills == 0, used
        assert used.held < 0.8 * LIMIT, used

    def __str__(self) -> str:
        return "\n".join([*self._lines[:1], f"{'MB, each its own highest':<44}{HEADINGS}", *self._lines[1:]])

    def __bool__(self) -> bool:
        return bool(self._lines)


report = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[report] = Report()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(report, None):
        terminalreporter.section("memory")
        terminalreporter.line(str(config.stash[report]))


@pytest.fixture(scope="session")
def used(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[report]


@dataclass(frozen=True)
class Big:
    """A database with a table of 10,000,000 users, and the SHA-256 of what psql copies out of it."""

    url: str
    digest: str


@pytest.fixture(scope="session")
def big() -> Iterator[Big]:
    with bench_export.database() as url:
        asyncio.run(bench_export.seed(url, USERS))
        yield Big(url, _psql_digest(url, "users"))


@pytest.fixture
def spool() -> Iterator[Path]:
    """On a disk, and gone afterwards: in memory its files would count, and could not be taken back."""
    with tempfile.TemporaryDirectory(dir=bench_export.ROOT / "spool") as name:
        yield Path(name)


@pytest.fixture
async def scratch(big: Big) -> AsyncIterator[str]:
    """The URL of an empty database beside that of the users."""
    async with new_database(big.url) as url:
        yield url


@dataclass(frozen=True)
class Rig:
    """What a scenario needs: `scratch` is an empty database of its own, where its servers keep their exports table."""

    big: Big
    scratch: str
    spool: Path
    session: aiohttp.ClientSession

    def start(self, *, source: str | None = None, **settings: str) -> AbstractAsyncContextManager[Confined]:
        """A server of the 10,000,000 users, or of another source, with settings by their names."""
        return confined(self.spool, self.scratch, source or self.big.url, **settings)


@pytest.fixture
def rig(big: Big, scratch: str, spool: Path, session: aiohttp.ClientSession) -> Rig:
    return Rig(big, scratch, spool, session)


def _psql_digest(url: str, relation: str) -> str:
    copied = subprocess.Popen(
        [PSQL, "-qX", url, "-c", f"\\copy {relation} to pstdout csv header"],
        env={"PGOPTIONS": COPIED},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with copied:
        said = subprocess.run(["sha256sum"], check=True, stdin=copied.stdout, stdout=subprocess.PIPE).stdout
    assert copied.returncode == 0
    return said.decode().split()[0]
