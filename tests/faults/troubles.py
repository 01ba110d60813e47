"""Troubles that last for a while, from a fault point on, and are real: the kernel or PostgreSQL refuses.

A disk that others fill is a tmpfs with a ballast file. A file that cannot be removed is a mount point (EBUSY). A table
that is locked has a lock of another session on it. A store that is read-only is so in the server's own sessions.
"""

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg

DISK = "size=4m"
RESERVE = 1_000_000  # bytes; more than all exports have, so that no eviction can make up for a disk that others fill
BALLAST = 64 * 1024  # bytes at a time
LOCK_TABLE = "LOCK TABLE streamer.exports IN ACCESS EXCLUSIVE MODE"
READ_ONLY = "SET default_transaction_read_only = on"
READ_AND_WRITE = "SET default_transaction_read_only = off"

# What the fault points replace, as it is.
OPEN, WRITE, CLOSE, UNLINK = os.open, os.write, os.close, os.unlink


class Trouble:
    """One at a time; `lasts` seconds long once it has begun."""

    def __init__(self, lasts: float) -> None:
        self._lasts = lasts
        self._over = threading.Event()
        self._over.set()
        self.read_only = False

    async def over(self) -> None:
        """Returns when it has ended, or has not begun."""
        await asyncio.to_thread(self._over.wait)

    def fill(self, disk: Path) -> None:
        """Others take all that is left of the disk."""
        ballast = disk / "ballast"
        fd = OPEN(ballast, os.O_WRONLY | os.O_CREAT)
        try:
            with suppress(OSError):
                while True:
                    WRITE(fd, bytes(BALLAST))
        finally:
            CLOSE(fd)
        self._end_later(lambda: UNLINK(ballast))

    def hold_file(self, path: Path) -> None:
        """It can be neither removed nor renamed, if it is there."""
        if subprocess.run(["mount", "--bind", path, path], capture_output=True, check=False).returncode == 0:
            self._end_later(lambda: subprocess.run(["umount", path], check=True))

    async def lock(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Whatever reads or changes the exports table waits."""
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(LOCK_TABLE)
        loop = asyncio.get_running_loop()

        def release() -> None:
            asyncio.run_coroutine_threadsafe(transaction.rollback(), loop).result()

        self._end_later(release)

    def forbid_changes(self) -> None:
        """Every change of the store is refused with 25006."""
        self.read_only = True

        def allow() -> None:
            self.read_only = False

        self._end_later(allow)

    def _end_later(self, end: Callable[[], object]) -> None:
        self._over.clear()

        def ended() -> None:
            try:
                end()
            finally:
                self._over.set()

        timer = threading.Timer(self._lasts, ended)
        timer.daemon = True
        timer.start()


@asynccontextmanager
async def session_of(trouble: Trouble, connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    """While the context is open, the session may change nothing if the trouble says so. The pool does not reset it."""
    if not trouble.read_only:
        yield
        return
    await connection.execute(READ_ONLY)
    try:
        yield
    finally:
        await connection.execute(READ_AND_WRITE)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount file systems: root may, where nothing keeps it from it."""
    if os.geteuid() != 0:
        return False
    probe = folder / "probe"
    try:
        with small_disk(probe):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        with suppress(OSError):
            probe.rmdir()
