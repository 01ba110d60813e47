"""The identity of a folder: who gives it, and that a file which has it is never replaced."""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from streamer.spool.identity import ATTEMPTS, NAME, UNNAMED, Identity, establish, sync_folder

OURS, THEIRS = Identity(UUID(int=1), UUID(int=2)), Identity(UUID(int=3), UUID(int=4))


def test_a_new_folder_gets_the_wanted_identity_in_the_file_of_every_version(tmp_path: Path) -> None:
    assert establish(tmp_path, OURS) == OURS
    assert [path.name for path in tmp_path.iterdir()] == [".identity"]
    assert json.loads((tmp_path / ".identity").read_bytes()) == {"store": str(OURS.store), "folder": str(OURS.folder)}


def test_a_folder_keeps_its_identity_and_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    establish(tmp_path, OURS)
    before = (tmp_path / NAME).stat()
    monkeypatch.setattr(os, "fsync", fail_with(errno.EROFS))
    assert establish(tmp_path, THEIRS) == OURS
    assert (tmp_path / NAME).stat().st_ino == before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_server_that_was_faster_gives_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path.hardlink_to

    def too_late(path: Path, target: Path) -> None:
        monkeypatch.setattr(Path, "hardlink_to", link)
        establish(tmp_path, THEIRS)
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", too_late)
    assert establish(tmp_path, OURS) == THEIRS
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("times", [ATTEMPTS - 1, ATTEMPTS])
def test_a_file_that_was_removed_before_it_had_its_name_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A server that starts takes it for that of a killed process."""
    link, left = Path.hardlink_to, times

    def removing(path: Path, target: Path) -> None:
        nonlocal left
        if left:
            left -= 1
            target.unlink()
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", removing)
    if times < ATTEMPTS:
        assert establish(tmp_path, OURS) == OURS
    else:
        with pytest.raises(FileNotFoundError):
            establish(tmp_path, OURS)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        establish(tmp_path, OURS)
    assert list(tmp_path.iterdir()) == []


def fail_with(number: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_the_file_and_its_name_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    establish(tmp_path, OURS)
    file, folder = synced
    assert file.startswith(UNNAMED)
    assert folder == tmp_path.name


def test_the_name_is_durable_although_another_server_removed_the_unnamed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    link = Path.hardlink_to

    def link_and_remove(path: Path, target: Path) -> None:
        link(path, target)
        target.unlink()

    monkeypatch.setattr(Path, "hardlink_to", link_and_remove)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    assert establish(tmp_path, OURS) == OURS
    assert synced[1:] == [tmp_path.name]


def test_the_file_is_written_before_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: sizes.append(os.fstat(fd).st_size))
    establish(tmp_path, OURS)
    assert sizes[0] == (tmp_path / NAME).stat().st_size


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"1", b"{}", b'{"store": "x", "folder": "y"}', b'{"store": 1, "folder": 2}'],
)
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        establish(tmp_path, OURS)
    assert (tmp_path / NAME).read_bytes() == content


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(number))
    sync_folder(tmp_path)


def test_an_error_of_the_disk_is_raised_and_no_folder_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / str(uuid4())
    file.touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(file)


def test_servers_that_start_at_once_get_the_same_identity(tmp_path: Path) -> None:
    wanted = [Identity(uuid4(), uuid4()) for _ in range(16)]
    together = threading.Barrier(len(wanted))

    def start(mine: Identity) -> Identity:
        together.wait(10)
        return establish(tmp_path, mine)

    with ThreadPoolExecutor(len(wanted)) as threads:
        found = set(threads.map(start, wanted))
    assert len(found) == 1
    assert found <= set(wanted)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
