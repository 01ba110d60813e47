"""Group commit: writes the chunks of a spool behind their producer.

    append → gathered → written and hashed in a thread → published

The first chunk is written at once, so that a download starts at once. During that write, and for `flush_interval` after
it, later chunks gather and are written as one batch. `append` returns at once unless more than `max_gathered` bytes
wait for the disk: only the disk slows an export down, a follower never.

After every `write_back` bytes an fsync runs beside the writing, so that dirty pages never fill the memory of a small
container and the last fsync is short.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from streamer.errors import ExportFailure
from streamer.spool.file import Chunk, SpoolFile

FLUSH_INTERVAL = 0.01  # seconds between two small batches, so that the batches of a fast cursor are large
MAX_GATHERED = 1 * 1024 * 1024  # bytes waiting for the disk before `append` waits too
BATCH_SIZE = MAX_GATHERED - 128 * 1024  # bytes of a batch that is written without waiting for more
WRITE_BACK = 16 * 1024 * 1024  # bytes written between two fsyncs
THREADS = 2  # that one writer uses at once: one writes, one syncs

T = TypeVar("T")


async def _always_room() -> None:
    """There is always room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLimits:
    """Sizes in bytes and the interval in seconds, as the constants of this module define them."""

    max_gathered: int = MAX_GATHERED
    batch_size: int = BATCH_SIZE
    flush_interval: float = FLUSH_INTERVAL
    write_back: int = WRITE_BACK


@dataclass(frozen=True, slots=True)
class Volume:
    """The resources that a folder provides to its spools: threads, disk space, and limits of a writer.

    A writer uses up to `THREADS` threads of `writing` at once; those of `removing` free the blocks of removed files.
    `ensure_room` is awaited before each write-back, and before a batch when `is_short`, which is called in a thread,
    returns True; it raises ExportFailure if there is no room. `grow` is called with the bytes by which the folder has
    grown, a negative number when a file is removed.
    """

    writing: Executor
    removing: Executor
    ensure_room: Callable[[], Awaitable[None]] = _always_room
    is_short: Callable[[], bool] = lambda: False
    grow: Callable[[int], None] = lambda size: None
    limits: WriteLimits = field(default_factory=WriteLimits)


class GroupCommitWriter:
    """Writes one file. Belongs to one event loop; `publish` is called there with the bytes and rows of each batch."""

    def __init__(self, file: SpoolFile, volume: Volume, publish: Callable[[int, int], None]) -> None:
        self._file = file
        self._volume = volume
        self._publish = publish
        self._gathered = _GatheredPages(volume.limits)
        self._unsynced = 0  # bytes written since the last write-back began
        self._write_back: asyncio.Future[None] | None = None
        self._durable = False  # the last act is an fsync
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to write; the file has been created."""
        self._task = asyncio.create_task(self._run(), name=f"spool {self._file.path.name}")
        self._task.add_done_callback(lambda _: self._gathered.release())

    async def append(self, chunk: Chunk, rows: int, *, publish: bool = False) -> None:
        """Adds whole records, `rows` of them data; the chunk belongs to the writer from here on.

        A chunk without rows, the header, waits for the next one unless `publish` is set. Raises the ExportFailure that
        has stopped the writer.
        """
        self._gathered.add(chunk, rows, publish=publish or rows > 0)
        while self._gathered.exceeds_limit and not self._has_stopped():
            await self._gathered.wait_released()
        if self._has_stopped():
            await self.stop()

    async def finish(self) -> None:
        """Writes the gathered chunks and makes the file durable. Raises ExportFailure."""
        self._durable = True
        await self.stop()

    async def abandon(self) -> None:
        """Drops the gathered chunks, and returns when no thread uses the file."""
        self._gathered.drop()
        with suppress(Exception):  # the export has failed already by the error that stopped the writer
            await self.stop()

    async def stop(self) -> None:
        """Writes the gathered chunks. Raises ExportFailure. A cancelled caller does not cancel the writer."""
        self._gathered.close()
        if self._task is not None:
            await asyncio.shield(self._task)

    def _has_stopped(self) -> bool:
        return self._task is not None and self._task.done()

    async def _run(self) -> None:
        """Makes every call that may wait for the disk, one write at a time."""
        try:
            while not self._gathered.is_drained:
                chunks, rows = await self._gathered.take()
                if chunks:
                    await self._write(chunks, rows)
                if self._unsynced >= self._volume.limits.write_back:
                    await self._begin_write_back()
                await self._gathered.wait_batch()
        finally:
            await self._end_write_back()
        if self._durable:
            await self._in_thread(self._file.sync)
            await self._in_thread(self._file.sync_name)

    async def _write(self, chunks: list[Chunk], rows: int) -> None:
        written = await self._in_thread(partial(self._write_if_room, chunks))
        if written is None:
            await self._volume.ensure_room()
            written = await self._in_thread(partial(self._file.write, chunks))
        self._unsynced += written
        self._publish(written, rows)

    def _write_if_room(self, chunks: list[Chunk]) -> int | None:
        """In a thread; None if the disk is short."""
        return None if self._volume.is_short() else self._file.write(chunks)

    async def _begin_write_back(self) -> None:
        """Begins an fsync beside the writing, once the one before has ended."""
        await self._end_write_back()
        await self._volume.ensure_room()
        self._unsynced = 0
        self._write_back = asyncio.ensure_future(self._in_thread(self._file.sync))

    async def _end_write_back(self) -> None:
        write_back, self._write_back = self._write_back, None
        if write_back is not None:
            await write_back

    async def _in_thread(self, act: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._volume.writing, act)
        except OSError as error:
            raise cannot_write(error) from error


class _GatheredPages:
    """Chunks that wait to be written as one batch."""

    def __init__(self, limits: WriteLimits) -> None:
        self._limits = limits
        self._chunks: list[Chunk] = []
        self._bytes = 0
        self._rows = 0
        self._closed = False
        self._ready = asyncio.Event()  # there is a batch to write, or the end has come
        self._batch_full = asyncio.Event()  # or the end has come
        self._released = asyncio.Event()  # a batch was taken, or the writer has stopped

    @property
    def exceeds_limit(self) -> bool:
        return self._bytes > self._limits.max_gathered

    @property
    def is_drained(self) -> bool:
        return self._closed and not self._chunks

    def add(self, chunk: Chunk, rows: int, *, publish: bool) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._rows += rows
        if publish or self.exceeds_limit:
            self._ready.set()
        if self._bytes >= self._limits.batch_size:
            self._batch_full.set()

    def drop(self) -> None:
        self._chunks.clear()

    def close(self) -> None:
        """Lets the writer take the rest at once."""
        self._closed = True
        self._ready.set()
        self._batch_full.set()

    async def take(self) -> tuple[list[Chunk], int]:
        """Waits for a batch, and returns its chunks and rows; after the end there may be no chunks."""
        await self._ready.wait()
        self._ready.clear()
        chunks, rows = self._chunks, self._rows
        self._chunks, self._rows, self._bytes = [], 0, 0
        self.release()
        if not self._closed:
            self._batch_full.clear()
        return chunks, rows

    def release(self) -> None:
        """Wakes the calls that wait in `wait_released`."""
        self._released.set()

    async def wait_released(self) -> None:
        """Returns when a batch has been taken, or the writer has stopped."""
        self._released.clear()
        await self._released.wait()

    async def wait_batch(self) -> None:
        """Returns after the flush interval, or as soon as a batch is full."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.flush_interval):
                await self._batch_full.wait()


def cannot_write(error: OSError) -> ExportFailure:
    return ExportFailure(f"the export's file could not be written: {error.strerror}")
