"""Fixtures of the unit tests: threads for the disk, a spool that is open, a clock, and a process with its table."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.postgres.driver import Pool
from streamer.postgres.pool import connect
from streamer.spool.directory import SpoolDirectory
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.unit.clock import Clock
from tests.unit.process import Process


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="spool") as threads:
        yield threads


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(asyncio.get_running_loop(), monkeypatch)


@pytest.fixture
async def spool(tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor))
    spool.open()
    yield spool
    spool.fail("the test is over")
    await spool.discard()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """Connections to a database with an empty table of exports."""
    pool = await connect(database, name="DATABASE_URL", size=4, wait=10.0)
    await Store(pool, uuid4(), JobTimes()).migrate()
    yield pool
    await pool.close()


@pytest.fixture
async def process(pool: Pool, tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[Process]:
    directory = SpoolDirectory(tmp_path, executor)
    directory.claim(uuid4())
    process = Process(pool, directory)
    yield process
    await process.close()
    directory.close()
