"""One writer for each part: a lock on a file beside it, which the system releases when the process ends.

The lock is not on the part itself, because Windows cannot rename an open file: the part is closed before its rename,
and the lock must be held across the rename. The holder removes the lock file. On POSIX systems another pull may have
opened the file by then, so a lock is valid only if its file still has its name. On Windows an open file cannot be
removed.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _try_to_lock(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:  # EACCES: another process holds the lock
            return False
        return True
else:
    import fcntl

    def _try_to_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FileLock:
    """A lock by means of the file `path`, which exists while the lock is held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Returns False if another process, or another FileLock of this one, holds the lock. Raises OSError."""
        while self._file is None:
            file = self._path.open("ab")
            try:
                if not _try_to_lock(file):
                    return False
                if self._is_named(file):
                    self._file = file
            finally:
                if self._file is None:
                    file.close()
        return True

    def release(self) -> None:
        if self._file is None:
            return
        if sys.platform != "win32":
            self._remove()
        self._file.close()
        self._file = None
        if sys.platform == "win32":
            self._remove()

    def _is_named(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()
