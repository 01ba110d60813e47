"""Fixtures of the unit tests: threads for the disk, a spool that is open, and a clock."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.unit.clock import Clock


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
