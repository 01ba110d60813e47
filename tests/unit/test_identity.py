"""The identity of a folder of spools."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from streamer.spool.identity import NAME, Identity, establish, sync_folder


def identity() -> Identity:
    return Identity(store=uuid4(), folder=uuid4())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_new_folder_gets_the_wanted_identity_and_no_other_file(tmp_path: Path) -> None:
    wanted = identity()
    assert establish(tmp_path, wanted) == wanted
    assert names(tmp_path) == {NAME}


def test_folder_keeps_its_identity_whatever_is_wanted(tmp_path: Path) -> None:
    first = establish(tmp_path, identity())
    assert establish(tmp_path, identity()) == first
    assert names(tmp_path) == {NAME}


def test_servers_that_start_at_once_get_the_same_identity(tmp_path: Path) -> None:
    wanted = [identity() for _ in range(16)]
    together = threading.Barrier(len(wanted))

    def start(mine: Identity) -> Identity:
        together.wait(10)
        return establish(tmp_path, mine)

    with ThreadPoolExecutor(len(wanted)) as threads:
        found = set(threads.map(start, wanted))
    assert len(found) == 1
    assert found <= set(wanted)
    assert names(tmp_path) == {NAME}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"store": "1", "folder": "2"}', b'{"store": 1, "folder": 2}', b"\xff"],
    ids=repr,
)
def test_damaged_identity_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{NAME} is damaged$"):
        establish(tmp_path, identity())
    assert (tmp_path / NAME).read_bytes() == content


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        establish(tmp_path, identity())
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)], ids=["22", "95", "5"]
)
def test_folder_of_a_file_system_that_cannot_sync_it_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if raised:
        with pytest.raises(OSError, match="Input/output error"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
