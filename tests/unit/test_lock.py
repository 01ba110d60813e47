"""FileLock: one holder, also across the removal of its file."""

from pathlib import Path

from streamer.client.lock import FileLock


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = (FileLock(tmp_path / "x.lock") for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_was_removed_does_not_count(tmp_path: Path) -> None:
    """The holder removes the file on release, when another process may have opened it already."""
    path = tmp_path / "x.lock"
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    path.unlink()
    assert second.acquire()
    assert path.exists()
    assert not FileLock(path).acquire()
    second.release()
    first.release()


def test_release_without_acquire_does_nothing(tmp_path: Path) -> None:
    FileLock(tmp_path / "x.lock").release()
    assert not list(tmp_path.iterdir())
