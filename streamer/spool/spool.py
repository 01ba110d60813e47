"""A spool: an append-only file with a published frontier, and one end.

The frontier is the number of bytes that may be read. It only grows, and bytes below it never change. Everything that
is published is whole records.

    append → gathered → written and hashed in a thread → frontier moves → followers wake

Writing is group commit. The first page is written at once, so that a download starts at once; while it is being
written, and for `SPACING` after it, later pages gather and go out as one piece. `append` returns at once unless more
than `GATHER_LIMIT` bytes are waiting for the disk: only the disk can slow an export down, a follower never. Every
`WRITE_BACK` bytes are sent to the disk while the next are written, so that dirty pages never fill the memory of a
small container, and the last fsync is short.

A spool ends once. `seal` says that the frontier is the length and all bytes are on disk; `fail` that no more will
come and what came must not be taken for the whole. Between `finish` (on disk) and `seal` (told to the followers) the
database row is written: whoever has the last byte finds the export completed.
"""

import asyncio
import errno
import hashlib
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from streamer.errors import ExportFailure
from streamer.spool import closing
from streamer.spool.identity import sync_folder
from streamer.spool.notifier import Notifier

FLUSH_INTERVAL = 0.005  # seconds between two small pieces, so that a fast cursor's pieces are large
GATHER_LIMIT = 1 * 1024 * 1024  # bytes waiting for the disk before `append` waits too
BATCH_SIZE = GATHER_LIMIT // 2  # bytes for a piece that need not wait for more
ASIDE = ".discarded-"  # how the name of a file begins that is being removed
WRITE_BACK = 16 * 1024 * 1024  # bytes written before they are sent on their way to the disk
THREADS = 2  # that one spool uses at once: one writes, one syncs

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A whole export: its length in bytes, its rows without the header, and the SHA-256 of its bytes."""

    length: int
    rows: int
    sha256: bytes


class Spool:
    """One export's file, while it is written. Belongs to one event loop.

    `keep_room` is awaited before every `WRITE_BACK` bytes but the first, and raises ExportFailure if there is no room.
    It is also awaited before a piece is written when `disk_is_short` says so, which is asked in a thread before each.
    `grow` is told the bytes by which the file has grown, a negative number when it is removed. Of `executor` a spool
    uses up to `THREADS` threads at once; those of `removing` free the blocks of removed files.
    """

    def __init__(
        self,
        path: Path,
        executor: Executor,
        keep_room: Callable[[], Awaitable[None]] | None = None,
        grow: Callable[[int], None] = lambda size: None,
        *,
        disk_is_short: Callable[[], bool] = lambda: False,
        removing: Executor | None = None,
    ) -> None:
        self.path = path
        self._keep_room = keep_room
        self._grow = grow
        self._disk_is_short = disk_is_short
        self.sealed = False
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why the rest will never come
        self._executor = executor
        self._removing = removing or executor
        self._wakeups = Notifier()
        self._begin()

    def _begin(self) -> None:
        self.frontier = 0  # bytes
        self.rows = 0  # data records within the frontier
        self._fd: int | None = None
        self._sha256 = hashlib.sha256()
        self._gathered: list[bytes | bytearray] = []
        self._gathered_bytes = 0
        self._gathered_rows = 0
        self._work = asyncio.Event()  # something is gathered, or the end has come
        self._closing = False
        self._batch_full = asyncio.Event()  # as much is gathered as one piece should have, or the end has come
        self._durable = False  # the writer's last act is an fsync
        self.kept = False  # the row decides about the file: `discard` does not remove it
        self._flushed = 0  # bytes that are on their way to the disk, or there
        self._write_back: asyncio.Future[None] | None = None
        self._room = asyncio.Event()  # the gathered bytes have been taken
        self._writer: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.sealed or self.broken.done()

    def open(self) -> None:
        """Creates the file, in the place of one that an earlier run has left. Raises ExportFailure."""
        try:
            self._put_stale_aside()
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        except OSError as error:
            raise _cannot_write(error) from error
        self._writer = asyncio.create_task(self._write_behind(), name=f"spool {self.path.name}")
        self._writer.add_done_callback(lambda _: self._room.set())

    async def append(self, page: bytes | bytearray, rows: int) -> None:
        """Adds whole records, `rows` of them data, and owns the page from here. Raises ExportFailure if writing has.

        A page without rows, the header, waits for the next: an export that fails before its first row shows nothing.
        """
        self._gathered.append(page)
        self._gathered_bytes += len(page)
        self._gathered_rows += rows
        if self._gathered_rows or self._gathered_bytes > GATHER_LIMIT:
            self._work.set()
        if self._gathered_bytes >= BATCH_SIZE:
            self._batch_full.set()
        while self._gathered_bytes > GATHER_LIMIT and not self._writing_failed():
            self._room.clear()
            await self._room.wait()
        if self._writing_failed():
            await self._stop_writing()

    async def finish(self) -> Sealed:
        """Writes what is gathered and makes it durable. The frontier is then the length. Raises ExportFailure."""
        self._durable = True
        await self._stop_writing()
        return Sealed(self.frontier, self.rows, self._sha256.digest())

    def seal(self) -> None:
        """Tells the followers that the frontier is the end. A spool that has ended stays as it ended."""
        if self.ended:
            return
        self.sealed = True
        self._close()
        self._wakeups.wake()

    def fail(self, reason: str) -> None:
        """Tells the followers that the rest will never come. A spool that has ended stays as it ended."""
        if not self.ended:
            self.broken.set_result(reason)
            self._wakeups.wake()

    async def discard(self) -> None:
        """Removes the file of a failed spool, once the writer's last piece has left its thread."""
        self._gathered.clear()
        with suppress(Exception):  # whatever stopped the writer, the export has failed by it
            await self._stop_writing()
        with suppress(OSError):
            if not self.kept and self._is_ours(self.path):
                self._remove()
        await self._close_in_thread()

    async def rewind(self) -> None:
        """Forgets what was written, so that the export can be run again. Nobody may have read a byte of it."""
        await self.discard()
        self._begin()

    def close_reader(self, file: BinaryIO) -> None:
        """Closes a file object on the spool."""
        closing.close(file, self._removing)

    async def moved_beyond(self, offset: int) -> None:
        """Returns when the frontier is beyond `offset`, or the spool has ended."""
        while self.frontier <= offset and not self.ended:
            await self._wakeups.wait()

    async def end(self) -> None:
        """Returns when the spool has ended, well or not."""
        await self.moved_beyond(sys.maxsize)

    async def _write_behind(self) -> None:
        """The writer: every call that may wait for the disk is made from here, one at a time."""
        try:
            while not self._closing or self._gathered:
                await self._work.wait()
                self._work.clear()
                pages, rows = self._take()
                if pages:
                    self._publish(await self._write_within_reserve(pages), rows)
                if self.frontier - self._flushed >= WRITE_BACK:
                    await self._flush()
                await self._let_pages_gather()
        finally:
            await self._end_write_back()
        if self._durable:
            await self._in_thread(self._sync)
            await self._in_thread(self._sync_name)

    async def _flush(self) -> None:
        """Begins to bring what is written to the disk, beside the writing, once the one before has ended."""
        await self._end_write_back()
        if self._keep_room is not None:
            await self._keep_room()
        self._flushed = self.frontier
        self._write_back = asyncio.ensure_future(self._in_thread(self._sync))

    async def _end_write_back(self) -> None:
        write_back, self._write_back = self._write_back, None
        if write_back is not None:
            await write_back

    def _take(self) -> tuple[list[bytes | bytearray], int]:
        pages, rows = self._gathered, self._gathered_rows
        self._gathered, self._gathered_rows, self._gathered_bytes = [], 0, 0
        self._room.set()
        if not self._closing:
            self._batch_full.clear()
        return pages, rows

    async def _write_within_reserve(self, pages: list[bytes | bytearray]) -> int:
        """Gives the bytes that were written. Raises ExportFailure."""
        written = await self._in_thread(partial(self._write_if_room, pages))
        if written is None:
            if self._keep_room is not None:
                await self._keep_room()
            written = await self._in_thread(partial(self._write, pages))
        return written

    def _write_if_room(self, pages: list[bytes | bytearray]) -> int | None:
        """In a thread: None if the disk is short."""
        return None if self._disk_is_short() else self._write(pages)

    def _write(self, pages: list[bytes | bytearray]) -> int:
        """In a thread: the only place that touches the file and the hash while the writer runs."""
        assert self._fd is not None
        for page in pages:
            rest = memoryview(page)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._sha256.update(page)
        return sum(map(len, pages))

    def _sync(self) -> None:
        assert self._fd is not None
        os.fsync(self._fd)

    def _sync_name(self) -> None:
        """A file whose name is lost, by a crash or by other hands, is no export."""
        if not self._is_ours(self.path):
            raise FileNotFoundError(errno.ENOENT, "its file was replaced")
        sync_folder(self.path.parent)

    def _publish(self, written: int, rows: int) -> None:
        self.frontier += written
        self.rows += rows
        self._grow(written)
        self._wakeups.wake_soon()

    async def _let_pages_gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_INTERVAL):
                await self._batch_full.wait()

    def _writing_failed(self) -> bool:
        return self._writer is not None and self._writer.done()

    async def _stop_writing(self) -> None:
        """Lets the writer finish; raises what stopped it. A cancelled caller does not cancel the writer."""
        self._closing = True
        self._work.set()
        self._batch_full.set()
        if self._writer is not None:
            await asyncio.shield(self._writer)

    async def _in_thread(self, act: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, act)
        except OSError as error:
            raise _cannot_write(error) from error

    def _remove(self) -> None:
        """Another run may take the name at any moment, so the file is looked at under a name that only this one has.

        Raises OSError.
        """
        aside = self._rename_aside()
        try:
            if self._is_ours(aside):
                self._grow(-self.frontier)
            else:
                self.path.hardlink_to(aside)
        finally:
            aside.unlink()

    def _put_stale_aside(self) -> None:
        """What an earlier run has left loses its name at once; to free its blocks takes longer. Raises OSError."""
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with suppress(FileNotFoundError):
            self._removing.submit(self._rename_aside().unlink)

    def _rename_aside(self) -> Path:
        """Raises OSError."""
        aside = self.path.with_name(f"{ASIDE}{uuid4()}")
        self.path.rename(aside)
        return aside

    def _is_ours(self, path: Path) -> bool:
        """Whether the file is the one that was opened here; another server may have begun anew under the same name."""
        return self._fd is not None and os.path.samestat(os.fstat(self._fd), path.stat())

    async def _close_in_thread(self) -> None:
        """The blocks of a removed file are freed when it is closed."""
        loop, fd = asyncio.get_running_loop(), self._take_fd()
        if fd is not None:
            await asyncio.shield(loop.run_in_executor(self._removing, _close, fd))

    def _close(self) -> None:
        if (fd := self._take_fd()) is not None:
            _close(fd)

    def _take_fd(self) -> int | None:
        fd, self._fd = self._fd, None
        return fd


def _close(fd: int) -> None:
    """What matters has been said by fsync; the descriptor is gone whatever close says (close(2))."""
    with suppress(OSError):
        os.close(fd)


def _cannot_write(error: OSError) -> ExportFailure:
    return ExportFailure(f"the export's file could not be written: {error.strerror}")
