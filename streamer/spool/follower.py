"""The reading side: a follower reads `[offset, frontier)` and sleeps until the frontier moves.

It yields extents of the file, never bytes: the bytes go from the page cache to the socket. A follower reads a sealed
spool to its end. It leaves a failed one at once: the published bytes are no whole export, and the file is removed.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import BinaryIO, NamedTuple, Self

from streamer.spool.spool import Spool

WINDOW = 8 * 1024 * 1024  # bytes of the largest extent


class Extent(NamedTuple):
    """The `length` bytes from `offset` on."""

    offset: int
    length: int

    def first(self, length: int) -> "Extent":
        """Its first `length` bytes, or all of it if it is shorter."""
        return Extent(self.offset, min(self.length, length))

    def after(self, length: int) -> "Extent":
        """The extent without its first `length` bytes."""
        return Extent(self.offset + length, self.length - length)


class TruncatedError(Exception):
    """The spool failed: the bytes read so far are no whole export."""


class Follower:
    """One reader's position in a spool, and a file object of its own.

    Iterates over the extents from `start` to `stop`, or to the end of the export if that comes first, each as soon as
    it is published; raises TruncatedError with the reason if the spool fails. The file exists once there is an extent.
    `before_first` is awaited before the first extent is returned. `head` returns the first bytes of the export if they
    are known before anything is published.
    """

    def __init__(
        self,
        spool: Spool,
        start: int = 0,
        stop: int | None = None,
        *,
        before_first: Callable[[], Awaitable[None]] | None = None,
        head: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        self._spool = spool
        self._head = head
        self._before_first = before_first
        self._offset = start
        self._stop = sys.maxsize if stop is None else stop
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._spool.close_reader(self._file)

    @property
    def file(self) -> BinaryIO:
        """Opened at the first use. Raises TruncatedError if it cannot be opened."""
        if self._file is None:
            try:
                self._file = self._spool.path.open("rb", buffering=0)
            except FileNotFoundError as error:
                raise TruncatedError("the file of the export is gone") from error
            except OSError as error:
                raise TruncatedError(f"the file of the export cannot be opened: {error.strerror}") from error
        return self._file

    @property
    def broken(self) -> "asyncio.Future[str]":
        """Done when the spool has failed; its result is the reason."""
        return self._spool.broken

    @property
    def caught_up(self) -> bool:
        """Whether the next extent has not been published yet."""
        return self._offset >= self._spool.frontier

    async def early(self) -> bytes:
        """Returns the bytes known before there is an extent; the extents then begin after them."""
        if self._head is None:
            return b""
        piece = (await self._head())[self._offset : self._stop]
        self._offset += len(piece)
        return piece

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Extent:
        if self._offset >= self._stop:
            raise StopAsyncIteration
        await self._spool.moved_beyond(self._offset)
        if self._spool.broken.done():
            raise TruncatedError(self._spool.broken.result())
        end = min(self._spool.frontier, self._stop)
        if self._offset >= end:
            raise StopAsyncIteration
        extent = Extent(self._offset, min(WINDOW, end - self._offset))
        self._offset += extent.length
        if self._before_first is not None:
            before_first, self._before_first = self._before_first, None
            await before_first()
        return extent
