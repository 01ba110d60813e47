"""The file of a spool alone: which file is its own, and what is closed where."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streamer.spool.file import ASIDE, SpoolFile, close_reader

CONTENT = b"id\n1\n"


@pytest.fixture
def file(tmp_path: Path, executor: ThreadPoolExecutor) -> Iterator[SpoolFile]:
    file = SpoolFile(tmp_path / "export.csv", executor)
    yield file
    file.close()


def test_pages_are_appended_and_hashed(file: SpoolFile) -> None:
    file.create()
    assert file.write([b"id\n", bytearray(b"1\n"), b""]) == len(CONTENT)
    assert file.path.read_bytes() == CONTENT
    assert file.sha256() == hashlib.sha256(CONTENT).digest()


def test_created_file_is_not_readable_by_others(file: SpoolFile) -> None:
    file.create()
    assert stat.S_IMODE(file.path.stat().st_mode) & 0o007 == 0


def test_removed_file_leaves_no_other_name(file: SpoolFile, tmp_path: Path) -> None:
    file.create()
    assert file.remove()
    assert list(tmp_path.iterdir()) == []


def test_file_that_was_never_created_removes_none(file: SpoolFile) -> None:
    file.path.write_bytes(CONTENT)
    assert not file.remove()
    assert file.path.read_bytes() == CONTENT


def test_file_of_another_run_with_the_same_name_is_not_removed(file: SpoolFile, tmp_path: Path) -> None:
    file.create()
    file.path.unlink()
    file.path.write_bytes(CONTENT)
    assert not file.remove()
    assert list(tmp_path.iterdir()) == [file.path]
    assert file.path.read_bytes() == CONTENT


@pytest.mark.parametrize("replaced", [False, True])
def test_name_of_a_removed_or_replaced_file_is_not_durable(file: SpoolFile, replaced: bool) -> None:
    file.create()
    file.path.unlink()
    if replaced:
        file.path.write_bytes(CONTENT)
    with pytest.raises(FileNotFoundError):
        file.sync_name()


def test_stale_file_loses_its_name_at_once_and_its_blocks_in_a_thread(
    file: SpoolFile, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    held = threading.Event()
    for _ in range(executor._max_workers):
        executor.submit(held.wait, 10)
    file.path.write_bytes(CONTENT)
    file.create()
    assert file.path.read_bytes() == b""
    assert [path.read_bytes() for path in tmp_path.glob(f"{ASIDE}*")] == [CONTENT]
    held.set()
    executor.shutdown()
    assert list(tmp_path.iterdir()) == [file.path]


def test_error_of_close_is_ignored(file: SpoolFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.create()
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", fail)
    file.close()
    file.close()


class Threads(ThreadPoolExecutor):
    """Counts what is submitted."""

    submitted = 0

    def submit(self, *call: Any, **named: Any) -> Any:
        self.submitted += 1
        return super().submit(*call, **named)


@pytest.mark.parametrize("removed", [True, False])
def test_reader_of_a_removed_file_is_closed_in_a_thread(tmp_path: Path, removed: bool) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(CONTENT)
    reader = path.open("rb", buffering=0)
    if removed:
        path.unlink()
    with Threads(1) as threads:
        close_reader(reader, threads)
    assert reader.closed
    assert threads.submitted == removed


def test_reader_of_a_removed_file_is_closed_although_the_threads_have_ended(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(CONTENT)
    reader = path.open("rb", buffering=0)
    path.unlink()
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    close_reader(reader, threads)
    assert reader.closed


@pytest.mark.parametrize("ended", [True, False], ids=["threads_ended", "in_a_thread"])
async def test_file_is_closed_once(tmp_path: Path, ended: bool) -> None:
    threads = Threads(1)
    file = SpoolFile(tmp_path / "export.csv", threads)
    before = open_files()
    file.create()
    if ended:
        threads.shutdown()
    await file.close_in_thread()
    await file.close_in_thread()
    assert threads.submitted == 1
    assert open_files() == before
    threads.shutdown()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
