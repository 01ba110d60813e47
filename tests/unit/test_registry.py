"""The unfinished exports of a process, without a database."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest

from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.retention import Retention
from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.model import OPEN
from streamer.spool.directory import SpoolDirectory

NO_REPRESENTATIONS = cast("RepresentationStore", None)


class FakeStore:
    """Allows every export to be served."""

    def __init__(self) -> None:
        self.served: list[UUID] = []

    async def note_served(self, export_id: UUID, _: int) -> bool:
        self.served.append(export_id)
        return True


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def gate() -> SourceGate:
    return SourceGate(clock=lambda: 0.0)


@pytest.fixture
def completed(store: FakeStore, directory: SpoolDirectory) -> CompletedCache:
    return CompletedCache(cast("Store", store), NO_REPRESENTATIONS, directory, JobTimes())


@pytest.fixture
def directory(tmp_path: Path, executor: ThreadPoolExecutor) -> Iterator[SpoolDirectory]:
    directory = SpoolDirectory(tmp_path, executor)
    directory.claim(uuid4())
    yield directory
    directory.close()


@pytest.fixture
def actives(store: FakeStore, directory: SpoolDirectory, completed: CompletedCache, gate: SourceGate) -> ActiveExports:
    retention = Retention(
        cast("Store", store), NO_REPRESENTATIONS, directory, completed, ttl=60, history_ttl=60, times=JobTimes()
    )
    return ActiveExports(cast("Store", store), directory, completed=completed, retention=retention, gate=gate)


async def until_cancelled() -> timedelta | None:
    await asyncio.Event().wait()
    return None


async def test_registered_export_waits_and_has_no_file(actives: ActiveExports, tmp_path: Path) -> None:
    active = actives.register(uuid4(), OPEN.name)
    assert active.id in actives
    assert actives.get(active.id) is active
    assert (list(actives), actives.waiting, actives.running) == ([active], [active.id], [])
    assert not (tmp_path / f"{active.id}.csv").exists()


async def test_export_with_a_task_is_running_until_it_is_reset(actives: ActiveExports) -> None:
    active, other = actives.register(uuid4(), OPEN.name), actives.register(uuid4(), OPEN.name)
    run = asyncio.create_task(active.run(asyncio.create_task(until_cancelled())))
    await asyncio.sleep(0)
    assert (actives.waiting, actives.running) == ([other.id], [active.id])
    active.abort("the export was cancelled")
    await run
    active.reset()
    assert set(actives.waiting) == {active.id, other.id}


async def test_removed_export_is_unknown(actives: ActiveExports) -> None:
    active = actives.register(uuid4(), OPEN.name)
    assert actives.pop(active.id) is active
    assert actives.pop(active.id) is None
    assert actives.get(active.id) is None
    assert active.id not in actives


async def test_exports_may_be_removed_during_an_iteration(actives: ActiveExports) -> None:
    for _ in range(3):
        actives.register(uuid4(), OPEN.name)
    for active in actives:
        actives.pop(active.id)
    assert list(actives) == []


async def test_export_notes_that_it_is_served_under_its_own_id(actives: ActiveExports, store: FakeStore) -> None:
    first, _ = actives.register(uuid4(), OPEN.name), actives.register(uuid4(), OPEN.name)
    await first.ensure_served()
    assert store.served == [first.id]


async def test_follower_counts_as_a_reader_of_the_file(actives: ActiveExports, completed: CompletedCache) -> None:
    active = actives.register(uuid4(), OPEN.name)
    with active.followed():
        assert completed.being_read == [active.id]
    assert completed.being_read == []


async def test_export_waits_for_the_source_while_the_gate_is_closed(actives: ActiveExports, gate: SourceGate) -> None:
    active = actives.register(uuid4(), OPEN.name)
    assert active.waiting_for == "place"
    gate.went_away("connection refused")
    assert active.waiting_for == "source"
    gate.answered()
    assert active.waiting_for == "place"


async def test_registry_of_a_server_that_does_not_stop_can_be_cleared(actives: ActiveExports) -> None:
    assert not actives.stopping
    actives.register(uuid4(), OPEN.name)
    actives.clear()
    assert list(actives) == []
