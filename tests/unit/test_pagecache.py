"""What is in memory of a file, on real files: read without waiting, seen by samples, loaded, and written back in time.

Whether a file system drops pages when it is asked to is its own affair; where it keeps them, the tests that need a
cold file are skipped, and say so.
"""

import asyncio
import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from streamer.errors import ExportFailure
from streamer.spool.pagecache import SAMPLE, is_cached, load, read_if_cached
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume, WriteLimits
from tests.polling import until

PATIENCE = 10.0  # seconds until a test that waits has failed
SIZE = 4 * 1024 * 1024  # bytes
BYTES = bytes(range(256)) * (SIZE // 256)
LOADED = 64 * 1024  # bytes that every kernel reads ahead
BACK = 64 * 1024  # bytes from one write-back to the next
PAGE = b"x" * 8191 + b"\n"
LIMITS = WriteLimits(write_back=BACK, max_gathered=BACK // 2, flush_interval=0.0)

LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file on disk, all of which is in memory."""
    path = tmp_path / "export.csv"
    path.write_bytes(BYTES)
    number = os.open(path, os.O_RDWR)
    os.fsync(number)
    try:
        os.preadv(number, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError:
        pytest.skip("this file system cannot tell what is in memory (RWF_NOWAIT)")
    yield number
    os.close(number)


def resident(fd: int, size: int = SIZE) -> list[bool]:
    """For each page whether it is in memory: mincore(2), which does not load what it asks about, as a look does."""
    with mmap.mmap(fd, size) as mapped:
        found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        failed = LIBC.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), found)
        del start  # or the map could not be closed
    assert not failed, os.strerror(ctypes.get_errno())
    return [bool(page & 1) for page in found]


@pytest.fixture
def cold(fd: int) -> int:
    """The file, none of which is in memory."""
    os.posix_fadvise(fd, 0, SIZE, os.POSIX_FADV_DONTNEED)
    if any(resident(fd)):
        pytest.skip("this file system keeps what it was asked to drop")
    os.posix_fadvise(fd, 0, SIZE, os.POSIX_FADV_RANDOM)  # nothing is loaded that was not asked for
    return fd


RANGES = [(0, 1), (0, SIZE), (SIZE - 1, 1), (1, SAMPLE), (SAMPLE - 1, 2), (4095, 4098), (SIZE // 2, SIZE // 2)]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_cached_range_is_read(fd: int, offset: int, length: int) -> None:
    assert bytes(read_if_cached(fd, offset, length) or b"nothing") == BYTES[offset : offset + length]
    assert is_cached(fd, offset, length)


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (2 * SIZE, 10)])
def test_range_beyond_the_end_is_not_read(fd: int, offset: int, length: int) -> None:
    assert read_if_cached(fd, offset, length) is None
    assert not is_cached(fd, offset, length)


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_uncached_range_is_found_missing(cold: int, offset: int, length: int) -> None:
    assert not is_cached(cold, offset, length)


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_uncached_range_is_read_only_after_it_was_loaded(cold: int, offset: int, length: int) -> None:
    assert read_if_cached(cold, offset, length) is None
    load(cold, offset, length)
    assert is_cached(cold, offset, length)
    assert os.pread(cold, length, offset) == BYTES[offset : offset + length]


def test_whole_range_is_loaded_and_not_only_its_samples(cold: int) -> None:
    load(cold, 0, LOADED)
    deadline = time.monotonic() + PATIENCE
    while not all(resident(cold)[: LOADED // mmap.PAGESIZE]):  # the kernel reads in the background
        assert time.monotonic() < deadline, "pages between the samples are not loaded"
    assert bytes(read_if_cached(cold, 0, LOADED) or b"") == BYTES[:LOADED]


def test_range_with_an_uncached_part_is_found_missing_and_not_read(cold: int) -> None:
    load(cold, 0, SIZE // 4)
    load(cold, SIZE - SIZE // 4, SIZE // 4)
    if all(resident(cold)):
        pytest.skip("this file system loads more than it was asked for")
    assert is_cached(cold, 0, SIZE // 4)
    assert is_cached(cold, SIZE - SIZE // 4, SIZE // 4)
    assert not is_cached(cold, 0, SIZE)
    assert read_if_cached(cold, 0, SIZE) is None


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
def test_failed_check_returns_no_bytes_and_raises_nothing(fd: int, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "preadv", refuse)
    assert read_if_cached(fd, 0, 10) is None
    assert not is_cached(fd, 0, 10)


def test_short_read_counts_as_uncached(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset, flags: len(buffers[0]) - 1)
    assert read_if_cached(fd, 0, 10) is None


@pytest.mark.parametrize("offset", [0, 1, SAMPLE - 1, SAMPLE + 7])
@pytest.mark.parametrize("length", [1, 2, SAMPLE - 1, SAMPLE, SAMPLE + 1, 3 * SAMPLE + 7])
def test_samples_are_dense_and_include_both_ends_and_nothing_outside(
    fd: int, monkeypatch: pytest.MonkeyPatch, offset: int, length: int
) -> None:
    looked: list[int] = []
    preadv = os.preadv

    def look(fd: int, buffers: list[bytearray], at: int, flags: int) -> int:
        looked.extend(range(at, at + len(buffers[0])))
        return preadv(fd, buffers, at, flags)

    monkeypatch.setattr(os, "preadv", look)
    assert is_cached(fd, offset, length)
    assert (looked[0], looked[-1]) == (offset, offset + length - 1)
    assert all(0 <= later - earlier <= SAMPLE for earlier, later in pairwise(looked))


def test_load_of_an_unreadable_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "write only"
    path.write_bytes(BYTES)
    write_only = os.open(path, os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            load(write_only, 0, SIZE)
    finally:
        os.close(write_only)


async def soon(event: Awaitable[T]) -> T:
    return await asyncio.wait_for(event, PATIENCE)


class Disk:
    """`os.fsync` as the spool sees it, in the hands of the test. It syncs for real."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.most_at_once = 0
        self.failure: OSError | None = None
        self._fsync = os.fsync
        self._free = threading.Event()
        self._free.set()

    def sync(self, fd: int) -> None:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            assert self._free.wait(PATIENCE), "the test never released the disk"
            if self.failure is not None:
                raise self.failure
            self._fsync(fd)
        finally:
            self.at_once -= 1

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.sync)
    yield disk
    disk.release()


@pytest.fixture
async def spool(tmp_path: Path, executor: ThreadPoolExecutor, disk: Disk) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor, limits=LIMITS))
    spool.open()
    yield spool
    disk.release()
    spool.fail("the test is over")
    await spool.discard()


async def fill(spool: Spool, size: int) -> None:
    for _ in range(size // len(PAGE)):
        await spool.append(PAGE, 1)


async def test_written_pages_are_synced_while_the_rest_is_written(spool: Spool, disk: Disk) -> None:
    await soon(fill(spool, 10 * BACK))
    await until(lambda: disk.begun >= 2, "pages are sent to the disk before the end")
    sealed = await soon(spool.finish())
    assert 3 <= disk.begun <= 11
    assert disk.most_at_once == 1
    assert sealed.length == 10 * BACK
    assert spool.path.read_bytes() == PAGE * (10 * BACK // len(PAGE))


async def test_small_export_is_synced_once_at_its_end_with_its_folder(spool: Spool, disk: Disk) -> None:
    await fill(spool, BACK // 2)
    await until(lambda: spool.frontier == BACK // 2, "all of it is published")
    assert disk.begun == 0
    await soon(spool.finish())
    assert disk.begun == 2


async def test_writing_continues_during_a_slow_write_back_up_to_a_limit(spool: Spool, disk: Disk) -> None:
    disk.hold()
    filling = asyncio.create_task(fill(spool, 20 * BACK))
    await until(lambda: disk.begun == 1, "the first pages are sent to the disk")
    await until(lambda: spool.frontier >= 2 * BACK, "more is published while the disk is busy")
    await asyncio.sleep(0.05)
    assert not filling.done()
    assert disk.begun == 1
    assert spool.frontier <= 4 * BACK
    disk.release()
    await soon(filling)
    assert (await soon(spool.finish())).length == 20 * BACK


async def test_error_of_the_write_back_fails_the_export(spool: Spool, disk: Disk) -> None:
    disk.failure = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(ExportFailure, match=r"could not be written: Input/output error"):
        await soon(fill(spool, 100 * BACK))
    disk.failure = None
    with pytest.raises(ExportFailure, match=r"could not be written: Input/output error"):
        await soon(spool.finish())


async def test_error_of_the_last_write_back_fails_the_export_although_the_last_fsync_succeeds(
    spool: Spool, disk: Disk
) -> None:
    """The kernel reports an error of a page once: the next fsync succeeds."""
    disk.hold()
    disk.failure = OSError(errno.EIO, os.strerror(errno.EIO))
    await soon(fill(spool, BACK + BACK // 4))
    await until(lambda: disk.begun == 1, "the pages are sent to the disk")
    disk.release()
    await until(lambda: disk.at_once == 0, "the write-back has failed")
    disk.failure = None
    with pytest.raises(ExportFailure, match=r"could not be written: Input/output error"):
        await soon(spool.finish())


async def test_file_is_not_closed_during_its_write_back(spool: Spool, disk: Disk) -> None:
    disk.hold()
    filling = asyncio.create_task(fill(spool, 20 * BACK))
    await until(lambda: disk.begun == 1, "the first pages are sent to the disk")
    filling.cancel()
    spool.fail("the export was cancelled")
    discarding = asyncio.create_task(spool.discard())
    await asyncio.sleep(0.05)
    assert not discarding.done()
    assert spool.path.exists()
    disk.release()
    await soon(discarding)
    assert not spool.path.exists()
    assert disk.at_once == 0
