"""The file of one spool: created, written, hashed and synced in threads, removed only while it is the spool's own.

Several servers may write to one folder, and another run of the same export uses the same name. A file is therefore
identified by its descriptor, never by its name alone.

The blocks of a removed file are freed when its last descriptor is closed. For a gigabyte that takes a quarter of a
second and more, so it is done in a thread.
"""

import asyncio
import errno
import hashlib
import os
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from streamer.spool.identity import sync_folder

ASIDE = ".discarded-"  # the prefix of the name of a file that is being removed

Chunk = bytes | bytearray


class SpoolFile:
    """Calls that write raise OSError. The threads of `removing` free the blocks of removed files."""

    def __init__(self, path: Path, removing: Executor) -> None:
        self.path = path
        self._removing = removing
        self.length = 0  # bytes that were written and hashed
        self._fd: int | None = None
        self._sha256 = hashlib.sha256()

    def create(self) -> None:
        """Creates the file in the place of the file of an earlier run, if there is one."""
        self._remove_stale()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)

    def write(self, chunks: list[Chunk]) -> int:
        """Appends and hashes the chunks, and returns their bytes. Blocks; belongs in a thread."""
        assert self._fd is not None
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._sha256.update(chunk)
            self.length += len(chunk)
        return sum(map(len, chunks))

    def sha256(self) -> bytes:
        """The digest of all bytes written."""
        return self._sha256.digest()

    def sync(self) -> None:
        """Makes the bytes durable. Blocks; belongs in a thread."""
        assert self._fd is not None
        os.fsync(self._fd)

    def sync_name(self) -> None:
        """Makes the name durable: without it the export is lost. Raises FileNotFoundError if the file was replaced."""
        if not self._is_ours(self.path):
            raise FileNotFoundError(errno.ENOENT, "its file was replaced")
        sync_folder(self.path.parent)

    def remove(self) -> bool:
        """Removes the file, and returns whether it was this one.

        Another run may take the name at any moment, so the file is renamed to a unique name before it is compared.
        """
        if not self._is_ours(self.path):
            return False
        aside = self._rename_aside()
        try:
            ours = self._is_ours(aside)
            if not ours:
                self.path.hardlink_to(aside)
        finally:
            aside.unlink()
        return ours

    def close(self) -> None:
        if (fd := self._take_fd()) is not None:
            _close(fd)

    async def close_in_thread(self) -> None:
        """Closes a file that may have been removed."""
        fd = self._take_fd()
        if fd is not None:
            try:
                closing = self._removing.submit(_close, fd)
            except RuntimeError:  # a run that ends after its server has stopped finds no threads
                _close(fd)
            else:
                await asyncio.shield(asyncio.wrap_future(closing))

    def _remove_stale(self) -> None:
        """Takes the name from the file of an earlier run at once; its blocks are freed in a thread."""
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with suppress(FileNotFoundError):
            self._removing.submit(self._rename_aside().unlink)

    def _rename_aside(self) -> Path:
        aside = self.path.with_name(f"{ASIDE}{uuid4()}")
        self.path.rename(aside)
        return aside

    def _is_ours(self, path: Path) -> bool:
        """Whether the file at `path` is the one created here; another server may have created one of the same name."""
        return self._fd is not None and os.path.samestat(os.fstat(self._fd), path.stat())

    def _take_fd(self) -> int | None:
        fd, self._fd = self._fd, None
        return fd


def close_reader(file: BinaryIO, removing: Executor) -> None:
    """Closes a file object on a spool; in a thread if the file was removed."""
    if os.fstat(file.fileno()).st_nlink:
        file.close()
        return
    try:
        removing.submit(file.close)
    except RuntimeError:  # a download that ends after its server has stopped finds no threads
        file.close()


def _close(fd: int) -> None:
    """Ignores errors: fsync has reported those of the data, and close(2) frees the descriptor in any case."""
    with suppress(OSError):
        os.close(fd)
