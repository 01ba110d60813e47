"""Which of the servers that share a spool folder are alive.

Each server holds a lock (flock(2)) on a file of its own in the folder. The kernel releases the lock when the process
ends, however it ends. So a lock that can be taken belongs to a dead server, whose exports are settled at once, without
waiting for their leases to run out.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import UUID

log = logging.getLogger(__name__)

PREFIX = ".owner-"  # as in every version, so that servers of different versions find each other's locks
UNLOCKED = ".new"
STALE = 60.0  # seconds


@contextmanager
def alive(folder: Path, server_id: UUID) -> Iterator[Callable[[], None]]:
    """Holds the lock of this server while the context is open. After an error its file stays, as that of a dead server.

    Yields a function that takes the lock again if its file was deleted. Raises OSError.
    """
    path = folder / f"{PREFIX}{server_id}"
    with ExitStack() as stack:
        lock = partial(_lock, path, stack)
        lock()
        yield lock
        path.unlink(missing_ok=True)


def _lock(path: Path, stack: ExitStack) -> None:
    """Creates the file and holds its lock until the stack is closed."""
    unlocked = path.with_suffix(UNLOCKED)  # a file that is not locked yet must not look like that of a dead server
    try:
        file = stack.enter_context(unlocked.open("xb"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(path)
    finally:
        unlocked.unlink(missing_ok=True)


@contextmanager
def dead_servers(folder: Path) -> Iterator[list[UUID]]:
    """Yields the ids of the dead servers of this folder. When the context ends without an error, their files go."""
    _remove_unlocked(folder)
    with ExitStack() as stack:
        dead = {path: server_id for server_id, path in _servers(folder) if _taken_over(path, stack)}
        yield list(dead.values())
        for path in dead:
            path.unlink(missing_ok=True)


def _servers(folder: Path) -> Iterator[tuple[UUID, Path]]:
    for path in folder.glob(f"{PREFIX}*"):
        try:
            yield UUID(path.name.removeprefix(PREFIX)), path
        except ValueError:
            continue  # not the file of a server


def _remove_unlocked(folder: Path) -> None:
    """Removes what is left by a server that died between the two steps of `_lock`."""
    for path in folder.glob(f"{PREFIX}*{UNLOCKED}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


def _taken_over(path: Path, stack: ExitStack) -> bool:
    """Returns whether the lock could be taken; it is then held until the stack is closed."""
    try:
        file = stack.enter_context(path.open("rb"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False  # the server has just stopped, or it is alive
    except OSError as error:
        log.warning("%s cannot be locked, so its server counts as alive until its leases run out: %s", path, error)
        return False
    return True
