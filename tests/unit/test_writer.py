"""The group-commit writer alone: batches, a disk that is short, and its end."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamer.errors import ExportFailure
from streamer.spool.file import Chunk, SpoolFile
from streamer.spool.writer import GroupCommitWriter, Volume, WriteLimits
from tests.polling import until
from tests.unit.spools import PATIENCE, let_the_loop_run, soon

HOUR = 3600.0  # seconds
PAGE = b"0123456789abcde\n"


class HeldFile(SpoolFile):
    """Records its batches and syncs, and holds them while the test says so."""

    def __init__(self, path: Path, removing: ThreadPoolExecutor) -> None:
        super().__init__(path, removing)
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.syncing = 0
        self.most_syncing = 0
        self.sync_begun, self.may_sync = threading.Event(), threading.Event()
        self.may_sync.set()

    def sync(self) -> None:
        self.syncing += 1
        self.most_syncing = max(self.most_syncing, self.syncing)
        self.sync_begun.set()
        assert self.may_sync.wait(PATIENCE), "the test never released the disk"
        super().sync()
        self.syncing -= 1

    def write(self, chunks: list[Chunk]) -> int:
        assert self.free.wait(PATIENCE), "the test never released the file"
        self.batches.append(len(chunks))
        return super().write(chunks)


class Folder:
    """The space that a volume provides."""

    def __init__(self) -> None:
        self.short = False
        self.asked = 0
        self.full = False

    def is_short(self) -> bool:
        return self.short

    async def ensure_room(self) -> None:
        self.asked += 1
        if self.full:
            raise ExportFailure("no room")


@pytest.fixture
def folder() -> Folder:
    return Folder()


@pytest.fixture
def limits() -> WriteLimits:
    return WriteLimits()


class Published:
    """The bytes and rows of each batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self._changed = asyncio.Event()

    def add(self, size: int, rows: int) -> None:
        self.batches.append((size, rows))
        self._changed.set()

    async def wait(self, number: int) -> None:
        while len(self.batches) < number:
            self._changed.clear()
            await soon(self._changed.wait())


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def file(tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[HeldFile]:
    file = HeldFile(tmp_path / "export.csv", executor)
    file.create()
    yield file
    file.free.set()
    file.close()


@pytest.fixture
async def writer(
    file: HeldFile, executor: ThreadPoolExecutor, folder: Folder, limits: WriteLimits, published: Published
) -> AsyncIterator[GroupCommitWriter]:
    volume = Volume(executor, executor, folder.ensure_room, folder.is_short, limits=limits)
    writer = GroupCommitWriter(file, volume, published.add)
    writer.start()
    yield writer
    file.free.set()
    await writer.abandon()


@pytest.mark.parametrize("limits", [WriteLimits(flush_interval=HOUR, batch_size=3 * len(PAGE))])
async def test_full_batch_is_written_before_the_flush_interval_ends(
    writer: GroupCommitWriter, published: Published
) -> None:
    await writer.append(PAGE, 1)
    await let_the_loop_run()
    for _ in range(3):
        await writer.append(PAGE, 1)
    await published.wait(2)
    assert published.batches == [(len(PAGE), 1), (3 * len(PAGE), 3)]


async def test_short_disk_is_written_to_only_after_room_was_ensured(
    writer: GroupCommitWriter, folder: Folder, published: Published
) -> None:
    folder.short = True
    await writer.append(PAGE, 1)
    await soon(writer.finish())
    assert (folder.asked, published.batches) == (1, [(len(PAGE), 1)])


async def test_short_disk_without_room_stops_the_writer_with_the_reason(
    writer: GroupCommitWriter, file: HeldFile, folder: Folder
) -> None:
    folder.short = folder.full = True
    await writer.append(PAGE, 1)
    with pytest.raises(ExportFailure, match="no room"):
        await soon(writer.finish())
    with pytest.raises(ExportFailure, match="no room"):
        await soon(writer.append(PAGE, 1))
    assert file.batches == []


@pytest.mark.parametrize("limits", [WriteLimits(write_back=len(PAGE), flush_interval=0.0)])
async def test_room_is_ensured_before_each_write_back(writer: GroupCommitWriter, folder: Folder) -> None:
    await writer.append(PAGE, 1)
    await soon(writer.stop())
    assert folder.asked == 1


async def test_abandoned_writer_drops_gathered_pages_and_returns_when_no_thread_uses_the_file(
    writer: GroupCommitWriter, file: HeldFile
) -> None:
    file.free.clear()
    await writer.append(PAGE, 1)
    await let_the_loop_run()
    await writer.append(PAGE, 1)
    abandoning = asyncio.create_task(writer.abandon())
    await let_the_loop_run()
    assert not abandoning.done()
    file.free.set()
    await soon(abandoning)
    assert file.batches == [1]
    assert file.path.read_bytes() == PAGE


async def test_cancelled_finish_does_not_cancel_the_writing(writer: GroupCommitWriter, file: HeldFile) -> None:
    file.free.clear()
    await writer.append(PAGE, 1)
    finishing = asyncio.create_task(writer.finish())
    await let_the_loop_run()
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    file.free.set()
    await soon(writer.stop())
    assert file.path.read_bytes() == PAGE


async def begun(event: threading.Event) -> None:
    async def is_set() -> bool:
        return event.is_set()

    await until(is_set, "the sync has begun")


@pytest.mark.parametrize("limits", [WriteLimits(write_back=1, flush_interval=0.0)])
async def test_writer_ends_when_its_write_back_has_ended(writer: GroupCommitWriter, file: HeldFile) -> None:
    """Until then a thread uses the file."""
    file.may_sync.clear()
    await writer.append(PAGE, 1)
    await begun(file.sync_begun)
    stopping = asyncio.create_task(writer.stop())
    await let_the_loop_run()
    assert not stopping.done()
    file.may_sync.set()
    await soon(stopping)
    assert file.syncing == 0


@pytest.mark.parametrize("limits", [WriteLimits(write_back=1, flush_interval=0.0)])
async def test_write_back_begins_when_the_one_before_has_ended(
    writer: GroupCommitWriter, file: HeldFile, published: Published
) -> None:
    file.may_sync.clear()
    for number in (1, 2):
        await writer.append(PAGE, 1)
        await published.wait(number)
    await begun(file.sync_begun)
    await let_the_loop_run()
    file.may_sync.set()
    await soon(writer.finish())
    assert file.most_syncing == 1


@pytest.mark.parametrize("limits", [WriteLimits(write_back=1, flush_interval=0.0)])
async def test_failed_write_back_stops_the_writer_with_the_reason(
    writer: GroupCommitWriter, file: HeldFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    await writer.append(PAGE, 1)
    with pytest.raises(ExportFailure, match="Input/output error"):
        await soon(writer.stop())
