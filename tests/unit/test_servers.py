"""Which servers of a folder are alive: locks that the kernel releases, however their process ends."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from streamer.spool.servers import PREFIX, STALE, UNLOCKED, alive, dead_servers

HOLDER = """
import sys
from pathlib import Path
from uuid import UUID
from streamer.spool.servers import alive

with alive(Path(sys.argv[1]), UUID(sys.argv[2])):
    print("alive", flush=True)
    sys.stdin.read()
"""


def found_dead(folder: Path) -> set[UUID]:
    with dead_servers(folder) as found:
        return set(found)


@contextmanager
def holder(folder: Path, server_id: UUID) -> Iterator["subprocess.Popen[str]"]:
    """Starts another process that is alive until its input ends."""
    arguments = [sys.executable, "-c", HOLDER, str(folder), str(server_id)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "alive\n"
        try:
            yield process
        finally:
            process.kill()


def lock_of(folder: Path, server_id: UUID) -> Path:
    return folder / f"{PREFIX}{server_id}"


def test_server_is_alive_while_its_context_is_open_and_leaves_no_file(tmp_path: Path) -> None:
    server_id = uuid4()
    with alive(tmp_path, server_id):
        assert [path.name for path in tmp_path.iterdir()] == [f".owner-{server_id}"]  # as in every version
        assert found_dead(tmp_path) == set()
        assert lock_of(tmp_path, server_id).exists()
    assert found_dead(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []


def test_server_that_ends_with_an_error_is_dead(tmp_path: Path) -> None:
    server_id = uuid4()
    with pytest.raises(RuntimeError), alive(tmp_path, server_id):
        raise RuntimeError
    assert found_dead(tmp_path) == {server_id}
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_server_that_died_before_it_had_its_lock_is_removed_when_stale(tmp_path: Path) -> None:
    stale, fresh = (tmp_path / f"{PREFIX}{uuid4()}{UNLOCKED}" for _ in range(2))
    for path in (stale, fresh):
        path.touch()
    long_ago = time.time() - STALE - 1
    os.utime(stale, (long_ago, long_ago))
    assert found_dead(tmp_path) == set()
    assert list(tmp_path.iterdir()) == [fresh]


def test_servers_that_are_alive_are_not_found_dead_by_each_other(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(alive(tmp_path, uuid4()))
        assert found_dead(tmp_path) == set()
        assert len(list(tmp_path.iterdir())) == 5


def test_killed_process_is_found_dead_once_and_at_once(tmp_path: Path) -> None:
    server_id, other = uuid4(), uuid4()
    with alive(tmp_path, other), holder(tmp_path, server_id) as process:
        assert found_dead(tmp_path) == set()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert found_dead(tmp_path) == {server_id}
        assert found_dead(tmp_path) == set()
        assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}{other}"]


def test_process_that_ends_normally_leaves_no_file(tmp_path: Path) -> None:
    with holder(tmp_path, uuid4()) as process:
        process.communicate()
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_dead_servers_are_found_again_when_settling_them_failed(tmp_path: Path) -> None:
    server_id = uuid4()
    lock_of(tmp_path, server_id).touch()
    with pytest.raises(ConnectionError), dead_servers(tmp_path):
        raise ConnectionError
    assert found_dead(tmp_path) == {server_id}
    assert list(tmp_path.iterdir()) == []


def test_dead_server_is_found_by_one_server_at_a_time(tmp_path: Path) -> None:
    server_id = uuid4()
    lock_of(tmp_path, server_id).touch()
    with dead_servers(tmp_path) as found:
        assert found == [server_id]
        assert found_dead(tmp_path) == set()
    assert found_dead(tmp_path) == set()


def test_server_that_has_no_lock_yet_is_not_found_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[UUID]] = []
    flock = fcntl.flock

    def look_and_lock(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        seen.append(found_dead(tmp_path))
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", look_and_lock)
    with alive(tmp_path, uuid4()):
        assert seen == [set()]
        assert found_dead(tmp_path) == set()


def test_server_that_stops_while_its_lock_is_tried_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_of(tmp_path, uuid4()).touch()
    opened = Path.open

    def too_late(path: Path, mode: str) -> object:
        path.unlink()
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", too_late)
    assert found_dead(tmp_path) == set()


def test_server_whose_lock_was_deleted_ends_without_an_error(tmp_path: Path) -> None:
    server_id = uuid4()
    with alive(tmp_path, server_id):
        lock_of(tmp_path, server_id).unlink()
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_dead_server_may_be_gone_when_its_exports_are_settled(tmp_path: Path) -> None:
    server_id = uuid4()
    lock_of(tmp_path, server_id).touch()
    with dead_servers(tmp_path) as found:
        assert found == [server_id]
        lock_of(tmp_path, server_id).unlink()


def refuse(file: object, how: int) -> None:
    """In the place of flock(2), on a file system without locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_server_that_gets_no_lock_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"), alive(tmp_path, uuid4()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_server_whose_file_cannot_be_locked_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = lock_of(tmp_path, uuid4())
    lock.touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert found_dead(tmp_path) == set()
    assert lock.exists()
    assert f"{lock} cannot be locked" in caplog.text


def test_file_without_a_lock_may_be_gone_when_its_age_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlocked = tmp_path / f"{PREFIX}{uuid4()}{UNLOCKED}"
    unlocked.touch()

    def too_late() -> float:
        unlocked.unlink()
        return 0.0

    monkeypatch.setattr(time, "time", too_late)
    assert found_dead(tmp_path) == set()
    assert not unlocked.exists()


def test_files_with_other_names_are_left_alone(tmp_path: Path) -> None:
    names = {f"{PREFIX}", f"{PREFIX}notes", f"{uuid4()}.csv", f"owner-{uuid4()}", f"{PREFIX}{uuid4()}.bak"}
    for name in names:
        (tmp_path / name).touch()
    assert found_dead(tmp_path) == set()
    assert {path.name for path in tmp_path.iterdir()} == names


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with alive(tmp_path, uuid4()):
        lock_of(tmp_path, uuid4()).touch()
        found_dead(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
