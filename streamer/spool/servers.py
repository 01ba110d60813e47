"""Who is alive among the servers that share a folder of spools.

Each server holds a lock on a file of its own there (flock(2)). The kernel lets go of it when the process ends, however
that happens, so a lock that can be taken belongs to a server that is dead: what it left is settled at once, without
waiting for a lease to run out.
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

PREFIX = ".owner-"
UNLOCKED = ".new"
STALE = 60.0  # seconds


@contextmanager
def alive(folder: Path, owner: UUID) -> Iterator[Callable[[], None]]:
    """This owner is alive while the context is open. Left with an error, it is dead: others settle what it has left.

    Gives what takes the lock anew, if its file was deleted. Raises OSError.
    """
    path = folder / f"{PREFIX}{owner}"
    with ExitStack() as stack:
        lock = partial(_lock, path, stack)
        lock()
        yield lock
        path.unlink(missing_ok=True)


def _lock(path: Path, stack: ExitStack) -> None:
    """Makes the file and holds its lock until the stack is closed."""
    unlocked = path.with_suffix(UNLOCKED)  # under this name nobody takes it for a dead one's
    try:
        file = stack.enter_context(unlocked.open("xb"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(path)
    finally:
        unlocked.unlink(missing_ok=True)


@contextmanager
def dead_servers(folder: Path) -> Iterator[list[UUID]]:
    """The owners that have died here. Once the context is left without an error, they are forgotten."""
    _remove_unlocked(folder)
    with ExitStack() as stack:
        dead = {path: owner for owner, path in _servers(folder) if _taken_over(path, stack)}
        yield list(dead.values())
        for path in dead:
            path.unlink(missing_ok=True)


def _servers(folder: Path) -> Iterator[tuple[UUID, Path]]:
    for path in folder.glob(f"{PREFIX}*"):
        try:
            yield UUID(path.name.removeprefix(PREFIX)), path
        except ValueError:
            continue  # not ours


def _remove_unlocked(folder: Path) -> None:
    """What a server leaves that dies between the two steps of `alive`, which take no time."""
    for path in folder.glob(f"{PREFIX}*{UNLOCKED}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


def _taken_over(path: Path, stack: ExitStack) -> bool:
    """Whether its lock could be taken; it is then held until the stack is closed."""
    try:
        file = stack.enter_context(path.open("rb"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False  # it has just stopped well, or it lives
    except OSError as error:
        log.warning("%s cannot be locked, so its server counts as alive until its leases run out: %s", path, error)
        return False
    return True
