"""Writes a file in threads of its own, and syncs it while further bytes come."""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

SYNC_INTERVAL = 32 * 1024 * 1024  # bytes: a disk of 1 MB/s takes 32 s, half the time after which a server disconnects


class SyncedWriter:
    """Writes chunks in the order of the calls. Futures raise OSError."""

    def __init__(self, path: Path, sync_interval: int = SYNC_INTERVAL) -> None:
        """Opens the file, which is created if it does not exist; syncs each `sync_interval` bytes. Raises OSError."""
        path.touch()
        self._file: IO[bytes] = path.open("r+b", buffering=0)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pull")
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._sync: Future[None] | None = None  # the latest one
        self._sync_interval = sync_interval
        self._unsynced = 0  # bytes

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def sync_failed(self) -> bool:
        """Whether the disk lacks bytes that the file has: the system reports a failed sync only once."""
        return self._sync is not None and self._sync.exception() is not None

    def truncate(self) -> None:
        os.ftruncate(self._fd, 0)

    def append(self, position: int, chunk: bytes) -> Future[None]:
        """Writes at the end of the file. Does nothing after a write that failed: a file must not have a hole."""
        return self._executor.submit(self._append, position, chunk)

    def write(self, position: int, chunk: bytes) -> Future[None]:
        return self._executor.submit(self._write, position, chunk)

    def allocate(self, length: int) -> Future[None]:
        """Sets the size of the file. Where the system can, this fails on a disk that is too small."""
        return self._executor.submit(_allocate, self._fd, length)

    def sync(self) -> Future[None]:
        """Syncs all bytes that were written."""
        return self._executor.submit(self._sync_all)

    def close(self) -> None:
        """Waits until the threads are idle."""
        self._executor.shutdown()
        self._syncer.shutdown()
        self._file.close()

    @property
    def _fd(self) -> int:
        return self._file.fileno()

    def _append(self, position: int, chunk: bytes) -> None:
        if position == self.size:
            self._write(position, chunk)

    def _write(self, position: int, chunk: bytes) -> None:
        """A disk that is nearly full takes a part of the chunk, and reports the error with the next write."""
        rest = memoryview(chunk)
        while rest:
            os.lseek(self._fd, position, os.SEEK_SET)
            count = os.write(self._fd, rest)
            position, rest = position + count, rest[count:]
        self._unsynced += len(chunk)
        if self._unsynced >= self._sync_interval:
            self._start_sync()

    def _start_sync(self) -> None:
        """Syncs while further bytes come. Waits for the sync before it, so that a slow disk slows down the writes."""
        self._await_sync()
        self._unsynced = 0
        self._sync = self._syncer.submit(os.fsync, self._fd)

    def _await_sync(self) -> None:
        if self._sync:
            self._sync.result()

    def _sync_all(self) -> None:
        self._start_sync()
        self._await_sync()


def sync_folder(folder: Path) -> None:
    """Makes a rename durable. Windows cannot open folders, and has its renames in a journal. Raises OSError."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _allocate(fd: int, length: int) -> None:
    if sys.platform == "linux":
        os.posix_fallocate(fd, 0, length)
    else:
        os.ftruncate(fd, length)
