"""The spool and its followers on real files and real threads: publishing, and both ends.

A slow or failing disk is simulated in `os.write` and `os.fsync`, the two calls of the spool. Tests wait for events with
a deadline, or show that something has not happened while the disk is held.
"""

import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamer.errors import ExportFailure
from streamer.spool.follower import Extent, Follower, TruncatedError
from streamer.spool.spool import Sealed, Spool
from streamer.spool.writer import MAX_GATHERED, Volume, WriteLimits
from tests.unit.spools import CHUNKS, FIRST, HEADER, PATIENCE, let_the_loop_run, published, read_all, soon, write_all


@pytest.fixture
def limits() -> WriteLimits:
    return WriteLimits()


@pytest.fixture
async def spool(tmp_path: Path, executor: ThreadPoolExecutor, limits: WriteLimits) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor, limits=limits))
    yield spool
    spool.fail("the test is over")
    await spool.discard()


HOUR = 3600.0  # seconds
rare_flushes = pytest.mark.parametrize("limits", [WriteLimits(flush_interval=HOUR)], ids=["rare-flushes"])
"""Between two batches lies an hour: a batch that is published meanwhile did not wait for it."""


class Disk:
    """`os.write` under the control of the test. It writes for real."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.failure: OSError | None = None
        self.most = 1 << 30  # bytes in one write
        self.left: int | None = None  # bytes until the disk is full
        self.fd = -1
        self._write = os.write
        self._free = threading.Event()
        self._free.set()
        self._entered = threading.Event()

    def write(self, fd: int, piece: memoryview) -> int:
        self.fd = fd
        self._entered.set()
        assert self._free.wait(PATIENCE), "the test never released the disk"
        if self.failure is not None:
            raise self.failure
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, piece[: min(self.most, self.most if self.left is None else self.left)])
        self.left = None if self.left is None else self.left - written
        self.pieces.append(bytes(piece[:written]))
        return written

    def hold(self) -> None:
        self._entered.clear()
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    async def held(self) -> None:
        """Returns when a write is in its thread and waits there."""
        entered = await asyncio.get_running_loop().run_in_executor(None, self._entered.wait, PATIENCE)
        assert entered, "nothing was written"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    yield disk
    disk.release()


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def exists(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# Publishing


@rare_flushes
async def test_first_chunk_is_published_at_once(spool: Spool) -> None:
    spool.open()
    await spool.append(FIRST, 1)
    await soon(spool.moved_beyond(0))
    assert (spool.frontier, spool.rows) == (len(FIRST), 1)
    assert spool.path.read_bytes() == FIRST


async def test_header_waits_for_the_first_row(spool: Spool, disk: Disk) -> None:
    spool.open()
    await spool.append(HEADER, 0)
    await let_the_loop_run()
    assert disk.pieces == []
    await published(spool, CHUNKS[0])
    assert (spool.frontier, spool.rows) == (len(HEADER + CHUNKS[0]), 1)
    assert spool.path.read_bytes() == HEADER + CHUNKS[0]


async def test_header_of_an_export_without_rows_is_published_by_finish(spool: Spool) -> None:
    spool.open()
    await spool.append(HEADER, 0)
    assert await soon(spool.finish()) == Sealed(len(HEADER), 0, hashlib.sha256(HEADER).digest())
    assert (spool.frontier, spool.path.read_bytes()) == (len(HEADER), HEADER)


async def test_export_that_fails_before_its_first_row_publishes_nothing(spool: Spool, disk: Disk) -> None:
    spool.open()
    await spool.append(HEADER, 0)
    await let_the_loop_run()
    spool.fail("division by zero")
    await soon(spool.discard())
    assert spool.frontier == 0
    assert disk.pieces == []


@rare_flushes
async def test_first_chunk_of_a_slow_query_is_published_at_once(spool: Spool) -> None:
    spool.open()
    await let_the_loop_run()
    await published(spool, FIRST)


@rare_flushes
async def test_chunk_after_the_flush_interval_is_published_at_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.open()
    await published(spool, FIRST)
    await let_the_loop_run()
    loop = asyncio.get_running_loop()
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + HOUR)
    await let_the_loop_run()
    await published(spool, CHUNKS[0])


@rare_flushes
async def test_chunks_within_the_flush_interval_gather(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    for chunk in CHUNKS:
        await spool.append(chunk, 1)
    await let_the_loop_run()
    assert (spool.frontier, spool.rows) == (len(FIRST), 1)
    assert disk.pieces == [FIRST]


async def test_chunks_after_the_flush_interval_are_published_without_an_end(spool: Spool) -> None:
    spool.open()
    written = b""
    for chunk in CHUNKS[:10]:
        await published(spool, chunk)
        written += chunk
        assert spool.path.read_bytes() == written
    assert not spool.ended


async def test_chunks_gathered_during_a_write_are_written_as_one_batch(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(CHUNKS[0], 1)
    await disk.held()
    for chunk in CHUNKS[1:]:
        await spool.append(chunk, 1)
    frontiers = asyncio.create_task(watch(spool))
    await let_the_loop_run()
    assert spool.frontier == 0
    disk.release()
    await soon(spool.finish())
    spool.seal()
    first, last = (len(CHUNKS[0]), 1), (sum(map(len, CHUNKS)), len(CHUNKS))
    assert await soon(frontiers) in ([first, last], [last])  # a waiter may miss the first of two batches


async def test_frontier_only_grows_and_is_whole_records(spool: Spool) -> None:
    spool.open()
    frontiers = asyncio.create_task(watch(spool))
    for number, chunk in enumerate(CHUNKS):
        await spool.append(chunk, 1)
        if number % 60 == 0:
            await soon(spool.moved_beyond(spool.frontier))
    await soon(spool.finish())
    spool.seal()
    seen = await soon(frontiers)
    ends = [0]
    for chunk in CHUNKS:
        ends.append(ends[-1] + len(chunk))
    assert seen == sorted(set(seen))
    assert all(frontier == ends[rows] for frontier, rows in seen)
    assert seen[-1] == (ends[-1], len(CHUNKS))
    assert len(seen) >= 5


async def watch(spool: Spool) -> list[tuple[int, int]]:
    """Every frontier that a follower could see, with its rows."""
    seen = []
    while not spool.sealed:
        frontier = spool.frontier
        await spool.moved_beyond(frontier)
        if spool.frontier != frontier:
            seen.append((spool.frontier, spool.rows))
    return seen


async def test_chunk_may_be_bytes_or_bytearray(spool: Spool) -> None:
    spool.open()
    sealed = await write_all(spool, [bytearray(b"1\n"), b"", b"2\n", bytearray()])  # type: ignore[list-item]
    assert spool.path.read_bytes() == b"1\n2\n"
    assert sealed.length == 4


# Back-pressure


async def test_append_within_the_limit_never_waits_for_the_disk(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    half = b"x" * (MAX_GATHERED // 2)
    await soon(spool.append(half, 1))
    await soon(spool.append(half, 1))
    assert spool.frontier == 0


async def test_append_beyond_the_limit_waits_for_the_disk(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    await spool.append(b"x" * MAX_GATHERED, 1)
    waiting = asyncio.create_task(spool.append(b"\n", 0))
    await let_the_loop_run()
    assert not waiting.done()
    disk.release()
    await soon(waiting)
    await soon(spool.finish())
    assert spool.path.read_bytes() == FIRST + b"x" * MAX_GATHERED + b"\n"


async def test_every_append_beyond_the_limit_continues(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    waiting = [asyncio.create_task(spool.append(b"x" * MAX_GATHERED, 1)) for _ in range(3)]
    await let_the_loop_run()
    assert not any(task.done() for task in waiting[1:])
    disk.release()
    await soon(asyncio.gather(*waiting))
    assert (await soon(spool.finish())).length == len(FIRST) + 3 * MAX_GATHERED


# Seal


async def test_finish_returns_length_rows_and_sha256_of_the_file(spool: Spool) -> None:
    spool.open()
    await spool.append(HEADER, 0)
    sealed = await write_all(spool, CHUNKS)
    content = HEADER + b"".join(CHUNKS)
    assert spool.path.read_bytes() == content
    assert sealed == Sealed(len(content), len(CHUNKS), hashlib.sha256(content).digest())
    assert (spool.frontier, spool.rows) == (len(content), len(CHUNKS))


async def test_finish_of_an_empty_spool_is_an_empty_file(spool: Spool) -> None:
    spool.open()
    assert await soon(spool.finish()) == Sealed(0, 0, hashlib.sha256(b"").digest())
    assert spool.path.read_bytes() == b""


@rare_flushes
async def test_finish_does_not_wait_for_the_flush_interval(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    for chunk in CHUNKS:
        await spool.append(chunk, 1)
    assert (await soon(spool.finish())).length == len(FIRST) + sum(map(len, CHUNKS))


async def test_finish_returns_after_an_fsync_of_everything_and_then_of_the_name(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int | str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else os.fstat(fd).st_size)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    spool.open()
    for chunk in CHUNKS:
        await spool.append(chunk, 1)
    sealed = await soon(spool.finish())
    assert synced == [sealed.length, "folder"]


@pytest.mark.parametrize("replaced", [False, True])
async def test_finish_of_a_file_that_was_removed_or_replaced_fails(spool: Spool, replaced: bool) -> None:
    spool.open()
    await published(spool, FIRST)
    spool.path.unlink()
    if replaced:
        spool.path.write_bytes(FIRST)
    with pytest.raises(ExportFailure, match="could not be written"):
        await soon(spool.finish())
    spool.fail("its file is gone")
    await soon(spool.discard())
    assert spool.path.exists() == replaced


async def test_kept_file_is_not_discarded(spool: Spool, disk: Disk) -> None:
    spool.open()
    await spool.append(FIRST, 1)
    await soon(spool.finish())
    spool.kept = True
    spool.fail("the answer of the table is late")
    await soon(spool.discard())
    assert spool.path.read_bytes() == FIRST
    assert not exists(disk.fd)


async def test_followers_end_at_the_seal_and_not_before(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    sealed = await soon(spool.finish())
    waiting = asyncio.create_task(spool.moved_beyond(sealed.length))
    ending = asyncio.create_task(spool.end())
    await let_the_loop_run()
    assert not spool.ended
    assert not waiting.done()
    assert not ending.done()
    spool.seal()
    await soon(asyncio.gather(waiting, ending))
    assert spool.sealed


async def test_short_writes_are_continued(spool: Spool, disk: Disk) -> None:
    disk.most = 3
    spool.open()
    sealed = await write_all(spool, [FIRST, *CHUNKS])
    content = FIRST + b"".join(CHUNKS)
    assert spool.path.read_bytes() == content
    assert (sealed.length, sealed.sha256) == (len(content), hashlib.sha256(content).digest())
    assert max(map(len, disk.pieces)) == 3


async def test_seal_closes_the_file(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    await soon(spool.finish())
    assert exists(disk.fd)
    spool.seal()
    assert not exists(disk.fd)


# Waking


async def test_moved_beyond_returns_at_once_if_the_frontier_is_beyond(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    await soon(spool.moved_beyond(0))
    await soon(spool.moved_beyond(len(FIRST) - 1))


async def test_moved_beyond_waits_while_the_frontier_is_not_beyond(spool: Spool) -> None:
    spool.open()
    waiting = asyncio.create_task(spool.moved_beyond(len(FIRST) + 1))
    await published(spool, FIRST)
    await published(spool, b"1")
    await let_the_loop_run()
    assert not waiting.done()
    await published(spool, b"2")
    await soon(waiting)


@pytest.mark.parametrize("end", ["publish", "seal", "fail"])
async def test_moved_beyond_wakes_every_waiter(spool: Spool, end: str) -> None:
    spool.open()
    waiting = [asyncio.create_task(spool.moved_beyond(0)) for _ in range(5)]
    await let_the_loop_run()
    assert not any(task.done() for task in waiting)
    if end == "publish":
        await spool.append(FIRST, 1)
    elif end == "seal":
        await soon(spool.finish())
        spool.seal()
    else:
        spool.fail("no room")
    await soon(asyncio.gather(*waiting))


# Failure


async def test_fail_while_a_write_is_in_its_thread_breaks_followers_without_waiting(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    with Follower(spool) as follower:
        waiting = asyncio.create_task(anext(follower))
        await let_the_loop_run()
        spool.fail("cancelled")
        with pytest.raises(TruncatedError, match="cancelled"):
            await soon(waiting)


async def test_second_failure_changes_nothing(spool: Spool) -> None:
    spool.open()
    spool.fail("the first reason")
    spool.fail("the second reason")
    with Follower(spool) as follower, pytest.raises(TruncatedError, match=r"^the first reason$"):
        await soon(anext(follower))


async def test_seal_after_a_failure_changes_nothing(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    await soon(spool.finish())
    spool.fail("cancelled")
    spool.seal()
    with Follower(spool) as follower, pytest.raises(TruncatedError, match="cancelled"):
        await soon(anext(follower))


async def test_failure_after_the_seal_changes_nothing(spool: Spool) -> None:
    spool.open()
    await write_all(spool, CHUNKS)
    spool.fail("too late")
    assert spool.sealed
    assert not spool.broken.done()
    read: list[bytes] = []
    await soon(read_all(spool, read.append))
    assert b"".join(read) == b"".join(CHUNKS)


async def test_discard_removes_and_closes_the_file(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    spool.fail("cancelled")
    assert spool.path.exists()
    await soon(spool.discard())
    assert not spool.path.exists()
    assert not exists(disk.fd)


async def test_discard_waits_for_no_fsync(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    spool.open()
    await published(spool, FIRST)
    spool.fail("cancelled")
    await soon(spool.discard())
    assert synced == []


@rare_flushes
async def test_discard_does_not_write_gathered_chunks(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    for chunk in CHUNKS:
        await spool.append(chunk, 1)
    spool.fail("cancelled")
    await soon(spool.discard())
    assert disk.pieces == [FIRST]
    assert (spool.frontier, spool.rows) == (len(FIRST), 1)


async def test_discard_waits_for_the_write_in_its_thread(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    await spool.append(CHUNKS[0], 1)
    spool.fail("cancelled")
    discarding = asyncio.create_task(spool.discard())
    await let_the_loop_run()
    assert not discarding.done()
    assert exists(disk.fd)
    disk.release()
    await soon(discarding)
    assert not spool.path.exists()
    assert not exists(disk.fd)
    assert disk.pieces == [FIRST]


async def test_discard_after_the_caller_was_cancelled_in_finish_removes_the_file(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    finishing = asyncio.create_task(spool.finish())
    await let_the_loop_run()
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    spool.fail("cancelled")
    discarding = asyncio.create_task(spool.discard())
    await let_the_loop_run()
    assert not discarding.done()
    assert spool.path.exists()
    disk.release()
    await soon(discarding)
    assert not spool.path.exists()
    assert not exists(disk.fd)


async def test_discard_after_the_caller_was_cancelled_in_append_removes_the_file(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    appending = asyncio.create_task(spool.append(b"x" * (MAX_GATHERED + 1), 1))
    await let_the_loop_run()
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    spool.fail("cancelled")
    disk.release()
    await soon(spool.discard())
    assert not spool.path.exists()
    assert disk.pieces == [FIRST]


async def test_discard_restores_a_file_that_took_the_name_meanwhile(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.open()
    await published(spool, FIRST)
    rename = Path.rename

    def too_late(path: Path, target: Path) -> Path:
        spool.path.unlink()
        spool.path.write_bytes(b"another run\n")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", too_late)
    spool.fail("taken over")
    await soon(spool.discard())
    assert spool.path.read_bytes() == b"another run\n"
    assert list(spool.path.parent.iterdir()) == [spool.path]


async def test_discard_of_a_spool_that_was_never_opened_does_nothing(spool: Spool) -> None:
    spool.fail("cancelled while it was waiting")
    await soon(spool.discard())
    assert list(spool.path.parent.iterdir()) == []


async def test_discarded_file_stays_readable_for_an_open_reader(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    with Follower(spool) as follower:
        extent = await soon(anext(follower))
        file = follower.file
        spool.fail("cancelled")
        await soon(spool.discard())
        assert os.pread(file.fileno(), extent.length, extent.offset) == FIRST


# A disk that fails


async def appended_until_it_fails(spool: Spool) -> None:
    for _ in range(100_000):
        await soon(spool.append(CHUNKS[1], 1))
        await asyncio.sleep(0)


async def test_full_disk_fails_append_and_finish_with_the_reason(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    disk.failure = full()
    with pytest.raises(ExportFailure, match="could not be written: No space left on device") as failed:
        await appended_until_it_fails(spool)
    assert failed.value.__cause__ is disk.failure
    with pytest.raises(ExportFailure, match="No space left on device"):
        await soon(spool.finish())
    assert (spool.frontier, spool.rows) == (len(FIRST), 1)


async def test_full_disk_found_by_finish_fails_it(spool: Spool, disk: Disk) -> None:
    disk.failure = full()
    spool.open()
    await spool.append(FIRST, 1)
    with pytest.raises(ExportFailure, match="No space left on device"):
        await soon(spool.finish())
    assert spool.frontier == 0


async def test_append_that_waits_for_a_disk_raises_when_it_fails(spool: Spool, disk: Disk) -> None:
    spool.open()
    disk.hold()
    await spool.append(FIRST, 1)
    await disk.held()
    waiting = [asyncio.create_task(spool.append(b"x" * (MAX_GATHERED + 1), 1)) for _ in range(3)]
    await let_the_loop_run()
    assert not any(task.done() for task in waiting)
    disk.failure = OSError(errno.EIO, os.strerror(errno.EIO))
    disk.release()
    for task in waiting:
        with pytest.raises(ExportFailure, match="Input/output error"):
            await soon(task)
    assert spool.frontier == 0


async def test_half_written_batch_is_never_published(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    disk.most, disk.left = 3, 10
    chunk = b"1,the disk is full in the middle of this\n"
    await spool.append(chunk, 1)
    with pytest.raises(ExportFailure, match="No space left on device"):
        await soon(spool.finish())
    assert spool.path.read_bytes() == FIRST + chunk[:10]
    assert (spool.frontier, spool.rows) == (len(FIRST), 1)
    with Follower(spool) as follower:
        assert await soon(anext(follower)) == Extent(0, len(FIRST))
        waiting = asyncio.create_task(soon(anext(follower)))
        await let_the_loop_run()
        assert not waiting.done()
        spool.fail("no room")
        with pytest.raises(TruncatedError, match="no room"):
            await waiting


async def test_failing_fsync_fails_finish(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    spool.open()
    await spool.append(FIRST, 1)
    with pytest.raises(ExportFailure, match="Input/output error"):
        await soon(spool.finish())
    assert not spool.ended


async def test_discard_after_a_write_error_removes_the_file(spool: Spool, disk: Disk) -> None:
    spool.open()
    await published(spool, FIRST)
    disk.failure = full()
    with pytest.raises(ExportFailure):
        await appended_until_it_fails(spool)
    spool.fail("no room")
    await soon(spool.discard())
    assert not spool.path.exists()
    assert not exists(disk.fd)


async def test_open_replaces_the_file_of_an_earlier_run(spool: Spool) -> None:
    spool.path.write_bytes(b"a part of an earlier run\n")
    with spool.path.open("rb") as earlier:
        spool.open()
        await published(spool, FIRST)
        assert spool.path.read_bytes() == FIRST
        assert earlier.read() == b"a part of an earlier run\n"


async def test_open_in_the_place_of_a_folder_fails(spool: Spool) -> None:
    spool.path.mkdir()
    with pytest.raises(ExportFailure, match="could not be written: Is a directory"):
        spool.open()
    spool.path.rmdir()


async def test_open_in_a_folder_that_is_gone_fails(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(ExportFailure, match="could not be written: No such file or directory"):
        Spool(tmp_path / "gone" / "export.csv", Volume(executor, executor)).open()


async def test_opened_file_is_for_its_owner_and_group_only(spool: Spool) -> None:
    spool.open()
    assert spool.path.stat().st_mode & 0o007 == 0
