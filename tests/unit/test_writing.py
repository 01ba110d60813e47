"""SyncedWriter: positions, holes, syncs, sizes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.client.writing import SyncedWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


@pytest.fixture
def writer(path: Path) -> Iterator[SyncedWriter]:
    writer = SyncedWriter(path)
    yield writer
    writer.close()


def test_a_new_file_is_created_and_an_existing_one_kept(path: Path) -> None:
    path.write_bytes(b"old")
    writer = SyncedWriter(path)
    assert writer.size == 3
    writer.truncate()
    writer.close()
    assert path.read_bytes() == b""


def test_chunks_are_written_at_their_positions(path: Path, writer: SyncedWriter) -> None:
    writer.allocate(6).result()
    writer.write(3, b"def").result()
    writer.write(0, b"abc").result()
    assert path.read_bytes() == b"abcdef"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allocates the blocks of a file")
def test_the_disk_space_of_a_file_is_reserved_before_the_first_write(path: Path, writer: SyncedWriter) -> None:
    """A disk that is too small is noticed at the start of a download, and not at its end."""
    length = 1024 * 1024
    writer.allocate(length).result()
    found = path.stat()
    assert found.st_size == length
    assert found.st_blocks * 512 >= length


def test_an_append_beyond_the_end_writes_nothing(path: Path, writer: SyncedWriter) -> None:
    writer.append(0, b"abc").result()
    writer.append(4, b"e").result()
    assert path.read_bytes() == b"abc"


def test_a_failed_write_is_the_error_of_its_future(
    path: Path, writer: SyncedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, content: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        writer.write(0, b"abc").result()


def test_a_failed_sync_is_remembered(writer: SyncedWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    writer.write(0, b"abc").result()
    assert not writer.sync_failed
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        writer.sync().result()
    assert writer.sync_failed


def test_close_can_be_repeated(writer: SyncedWriter) -> None:
    writer.close()
    writer.close()
