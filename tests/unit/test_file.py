"""The file of a spool alone: which file is its own, and what is closed where."""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamer.spool.file import ASIDE, SpoolFile

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
