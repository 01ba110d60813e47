"""A spool: an append-only file with a published frontier, and one end.

The frontier is the number of bytes that may be read. It only grows, and bytes below it never change. Of a CSV,
everything published is whole records. A `GroupCommitWriter` writes the chunks in the background; after each batch the
frontier moves, and the followers wake.

A spool ends once. After `seal` the frontier is the length, and all bytes are on disk; after `fail` no more bytes come,
and the bytes published so far must not be taken for the whole. The database row is written between `finish` (on disk)
and `seal` (published to the followers): a client with the last byte finds the export completed.
"""

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from streamer.spool.file import Chunk, SpoolFile, close_reader
from streamer.spool.notifier import Notifier
from streamer.spool.writer import GroupCommitWriter, Volume, cannot_write


@dataclass(frozen=True, slots=True)
class Sealed:
    """A whole export: its length in bytes, its rows without the header, and the SHA-256 of its bytes."""

    length: int
    rows: int
    sha256: bytes


class Spool:
    """One export's file, while it is written. Belongs to one event loop."""

    def __init__(self, path: Path, volume: Volume, notifier: Notifier | None = None) -> None:
        self.path = path
        self.sealed = False
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why the rest will never come
        self._volume = volume
        self._notifier = notifier or Notifier()
        self._begin()

    def _begin(self) -> None:
        self.frontier = 0  # bytes
        self.rows = 0  # data records within the frontier
        self.kept = False  # the row decides about the file: `discard` does not remove it
        self._file = SpoolFile(self.path, self._volume.removing)
        self._writer = GroupCommitWriter(self._file, self._volume, self._publish)

    @property
    def ended(self) -> bool:
        return self.sealed or self.broken.done()

    def open(self) -> None:
        """Creates the file, in the place of the file of an earlier run. Raises ExportFailure."""
        try:
            self._file.create()
        except OSError as error:
            raise cannot_write(error) from error
        self._writer.start()

    async def append(self, chunk: Chunk, rows: int) -> None:
        """Adds whole records, `rows` of them data; the chunk belongs to the spool from here on.

        A chunk without rows, the header, waits for the next chunk: an export that fails before its first row publishes
        nothing. Raises ExportFailure if the file could not be written.
        """
        await self._writer.append(chunk, rows)

    async def publish(self, chunk: Chunk) -> None:
        """Adds bytes that may be read at once, although they are no records; otherwise as `append`."""
        await self._writer.append(chunk, 0, publish=True)

    async def finish(self, *, durable: bool = True) -> Sealed:
        """Writes the rest and makes the file durable. The frontier is then the length. Raises ExportFailure.

        A file that was removed is not `durable`.
        """
        await (self._writer.finish() if durable else self._writer.stop())
        return Sealed(self.frontier, self.rows, self._file.sha256())

    def seal(self) -> None:
        """Publishes to the followers that the frontier is the end. Without effect on a spool that has ended."""
        if self.ended:
            return
        self.sealed = True
        self._file.close()
        self._notifier.wake()

    def fail(self, reason: str) -> None:
        """Publishes to the followers that the rest will never come. Without effect on a spool that has ended."""
        if not self.ended:
            self.broken.set_result(reason)
            self._notifier.wake()

    async def stop_writing(self) -> None:
        """Returns when no thread writes to the file. What was appended may not be in it."""
        await self._writer.abandon()

    @property
    def written(self) -> tuple[int, bytes]:
        """The number of bytes in the file, which may be beyond the frontier, and their SHA-256."""
        return self._file.length, self._file.sha256()

    async def discard(self) -> None:
        """Removes the file of a failed spool, once no thread writes to it."""
        await self.stop_writing()
        with suppress(OSError):
            if not self.kept and self._file.remove():
                self._volume.grow(-self.frontier)
        await self._file.close_in_thread()

    async def rewind(self) -> None:
        """Discards the file, so that the export can be run again. No client may have read a byte of it."""
        await self.discard()
        self._begin()

    def close_reader(self, file: BinaryIO) -> None:
        """Closes a file object on the spool."""
        close_reader(file, self._volume.removing)

    async def moved_beyond(self, offset: int) -> None:
        """Returns when the frontier is beyond `offset`, or the spool has ended."""
        while self.frontier <= offset and not self.ended:
            await self._notifier.wait()

    async def end(self) -> None:
        """Returns when the spool has been sealed or has failed."""
        await self.moved_beyond(sys.maxsize)

    async def end_or(self, event: asyncio.Event) -> None:
        """Returns when the event is set, or the spool has ended."""
        happened, ended = asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.end())
        try:
            await asyncio.wait({happened, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            happened.cancel()
            ended.cancel()

    def _publish(self, written: int, rows: int) -> None:
        self.frontier += written
        self.rows += rows
        self._volume.grow(written)
        self._notifier.wake_soon()
