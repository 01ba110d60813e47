"""The cache of completed exports, without a database: what concurrent readers share, and what a removal ends."""

import asyncio
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest

from streamer.coding import Coding
from streamer.errors import ExportFailed, ExportGone, NotFound, Unavailable, WrittenByNewer
from streamer.jobs.completed import MAX_CACHED, CompletedCache, CompletedExport
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, OPEN, Export, ExportSpec, Principal, Progress, State, Viewer
from streamer.spool.directory import SpoolDirectory

CONTENT = b"id\n1\n2\n"
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Step:
    """Counts the calls of something, and lets each wait until it may go on."""

    def __init__(self) -> None:
        self.count = 0
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def take(self) -> None:
        self.count += 1
        self.begun.set()
        await self.go_on.wait()


class Table:
    """In the place of the store."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Export] = {}
        self.used: list[UUID] = []
        self.reading = Step()
        self.noting = Step()

    async def get(self, export_id: UUID, _: Viewer) -> Export:
        found = self.rows.get(export_id)
        await self.reading.take()
        if found is None:
            raise NotFound(f"there is no export {export_id}")
        return found

    async def note_used(self, export_id: UUID) -> None:
        await self.noting.take()
        self.used.append(export_id)


class Directory(SpoolDirectory):
    """Lets the hashing of a file wait."""

    def __init__(self, path: Path, threads: ThreadPoolExecutor) -> None:
        super().__init__(path, threads)
        self.hashing = Step()

    async def sha256(self, export_id: UUID, coding: Coding = Coding.IDENTITY) -> bytes:
        await self.hashing.take()
        return await super().sha256(export_id, coding)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def directory(tmp_path: Path, executor: ThreadPoolExecutor) -> Iterator[Directory]:
    directory = Directory(tmp_path, executor)
    directory.claim(uuid4())
    yield directory
    directory.close()


@pytest.fixture
def cache(table: Table, directory: Directory) -> Iterator[CompletedCache]:
    """A row is read for each reader that does not meet another."""
    with cache_of(table, directory, JobTimes(cache_lifetime=0.0)) as cache:
        yield cache


def cache_of(table: Table, directory: Directory, times: JobTimes) -> "closing[CompletedCache]":
    return closing(CompletedCache(cast("Store", table), cast("RepresentationStore", None), directory, times))


LASTING = JobTimes(cache_lifetime=3600.0)


def completed(table: Table, directory: Directory, **members: object) -> UUID:
    """Adds an export with its row and its file."""
    export_id = uuid4()
    fields: dict[str, object] = {
        "id": export_id,
        "principal": "open",
        "epoch": 1,
        "state": State.COMPLETED,
        "spec": ExportSpec(dataset="users", columns=("id",)),
        "progress": Progress(
            total_rows=2,
            estimated=False,
            processed_rows=2,
            bytes=len(CONTENT),
            percentage=100.0,
            rows_per_second=2,
        ),
        "created_at": NOW,
        "started_at": NOW,
        "finished_at": NOW,
        "snapshot_at": NOW,
        "removed_at": None,
        "error": None,
        "sha256": hashlib.sha256(CONTENT).digest(),
        "attempts": 1,
        "served": False,
        "truncated": False,
        "waiting_for": None,
        "folder": directory.id,
        "label": None,
        "ttl": None,
    }
    table.rows[export_id] = Export(**{**fields, **members})  # type: ignore[arg-type]
    directory.file_of(export_id).write_bytes(CONTENT)
    return export_id


def content_of(found: CompletedExport) -> bytes:
    return bytes(found.read(0, len(CONTENT)) or b"")


async def let_others_wait() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_row_is_read_once_for_concurrent_readers(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    table.reading.go_on.clear()
    readers = [asyncio.create_task(cache.acquire(export_id, EVERYBODY)) for _ in range(8)]
    await let_others_wait()
    table.reading.go_on.set()
    found = await asyncio.gather(*readers)
    assert table.reading.count == 1
    assert table.used == [export_id]
    assert {id(each) for each in found} == {id(found[0])}
    assert content_of(found[0]) == CONTENT
    for each in found:
        with each:
            assert cache.is_read(export_id)
    assert not cache.is_read(export_id)


async def test_a_row_is_not_read_again_while_it_is_fresh(table: Table, directory: Directory) -> None:
    export_id = completed(table, directory)
    with cache_of(table, directory, LASTING) as cache:
        for _ in range(3):
            with await cache.acquire(export_id, EVERYBODY):
                pass
    assert table.reading.count == 1


async def test_a_file_is_hashed_once_for_concurrent_readers(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    directory.hashing.go_on.clear()
    with await cache.acquire(export_id, EVERYBODY) as found:
        verifying = [asyncio.create_task(cache.ensure_verified(found)) for _ in range(8)]
        await let_others_wait()
        assert not any(each.done() for each in verifying)
        directory.hashing.go_on.set()
        await asyncio.gather(*verifying)
        await cache.ensure_verified(found)
    assert directory.hashing.count == 1


async def test_a_file_that_this_process_has_sealed_is_not_hashed(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    cache.mark_verified(export_id)
    with await cache.acquire(export_id, EVERYBODY) as found:
        await cache.ensure_verified(found)
    assert directory.hashing.count == 0


async def test_a_damaged_file_is_gone_for_everyone_who_waits_for_its_hash(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    directory.file_of(export_id).write_bytes(CONTENT.upper())
    with await cache.acquire(export_id, EVERYBODY) as found:
        verifying = [asyncio.create_task(cache.ensure_verified(found)) for _ in range(3)]
        results = await asyncio.gather(*verifying, return_exceptions=True)
    assert [type(result) for result in results] == [ExportGone] * 3


async def test_a_look_up_that_began_before_a_removal_is_not_used_after_it(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    table.reading.go_on.clear()
    early = asyncio.create_task(cache.acquire(export_id, EVERYBODY))
    await table.reading.begun.wait()
    del table.rows[export_id]
    cache.drop(export_id)
    table.reading.go_on.set()
    with pytest.raises(NotFound):
        await early
    with pytest.raises(NotFound):
        await cache.acquire(export_id, EVERYBODY)


async def test_an_evicted_file_stays_open_until_its_last_reader_has_released_it(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    with await cache.acquire(export_id, EVERYBODY) as found:
        cache.drop(export_id)
        directory.file_of(export_id).unlink()
        assert found.open
        assert content_of(found) == CONTENT
        assert cache.being_read == [export_id]
    assert not found.open
    assert cache.being_read == []


async def test_the_files_that_were_read_last_stay_open(table: Table, directory: Directory) -> None:
    read = []
    with cache_of(table, directory, LASTING) as cache:
        for _ in range(MAX_CACHED + 1):
            with await cache.acquire(completed(table, directory), EVERYBODY) as found:
                read.append(found)
        assert [found.open for found in read] == [False] + [True] * MAX_CACHED
    assert not any(found.open for found in read)


async def test_a_use_that_cannot_be_noted_in_time_prevents_no_download(table: Table, directory: Directory) -> None:
    export_id = completed(table, directory)
    table.noting.go_on.clear()
    with (
        cache_of(table, directory, JobTimes(note_timeout=0.01)) as cache,
        await cache.acquire(export_id, EVERYBODY) as found,
    ):
        assert content_of(found) == CONTENT
    assert (table.noting.count, table.used) == (1, [])


@pytest.mark.parametrize(
    ("members", "refusal"),
    [
        ({"state": State.FAILED, "error": "the reason"}, ExportFailed),
        ({"state": State.CANCELLED}, ExportGone),
        ({"removed_at": NOW}, ExportGone),
        ({"state": State.PROCESSING}, Unavailable),
        ({"state": "archived"}, WrittenByNewer),
    ],
    ids=["failed", "cancelled", "removed", "of another server", "a state of a newer version"],
)
async def test_an_export_without_a_download_is_refused_by_its_state(
    cache: CompletedCache, table: Table, directory: Directory, members: dict[str, object], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await cache.acquire(completed(table, directory, **members), EVERYBODY)


@pytest.mark.parametrize(
    ("elsewhere", "refusal"), [(False, ExportGone), (True, Unavailable)], ids=["here", "elsewhere"]
)
async def test_a_missing_file_is_gone_in_its_own_folder_and_unavailable_in_another(
    cache: CompletedCache, table: Table, directory: Directory, elsewhere: bool, refusal: type[Exception]
) -> None:
    export_id = completed(table, directory, folder=uuid4() if elsewhere else directory.id)
    directory.file_of(export_id).unlink()
    with pytest.raises(refusal):
        await cache.acquire(export_id, EVERYBODY)


async def test_a_row_is_read_again_when_it_is_not_fresh(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    for _ in range(2):
        with await cache.acquire(export_id, EVERYBODY):
            pass
    assert table.reading.count == 2


async def test_downloads_of_one_export_are_counted(cache: CompletedCache) -> None:
    export_id = uuid4()
    with cache.reading(export_id):
        with cache.reading(export_id):
            pass
        assert cache.is_read(export_id)
        assert cache.being_read == [export_id]
    assert not cache.is_read(export_id)


async def test_a_file_that_is_gone_already_is_not_trusted(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory)
    directory.file_of(export_id).unlink()
    cache.mark_verified(export_id)
    directory.file_of(export_id).write_bytes(CONTENT.upper())
    with await cache.acquire(export_id, EVERYBODY) as found, pytest.raises(ExportGone):
        await cache.ensure_verified(found)


async def test_the_date_of_an_export_is_the_second_of_its_completion(
    cache: CompletedCache, table: Table, directory: Directory
) -> None:
    export_id = completed(table, directory, finished_at=NOW.replace(microsecond=999_999))
    with await cache.acquire(export_id, EVERYBODY) as found:
        assert found.last_modified == NOW


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED])
async def test_an_export_of_another_principal_is_not_found_whatever_its_state(
    table: Table, directory: Directory, state: State
) -> None:
    export_id = completed(table, directory, principal="key:reports", state=state, error="the reason")
    with cache_of(table, directory, LASTING) as cache:
        for _ in range(2):  # the second time it may be in the cache
            with pytest.raises(NotFound):
                await cache.acquire(export_id, OPEN)
            if state is State.COMPLETED:
                (await cache.acquire(export_id, Principal(name="key:reports"))).release()
