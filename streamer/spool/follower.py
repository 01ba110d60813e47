"""The reading side: a follower reads `[offset, frontier)` and sleeps until the frontier moves.

It yields extents of the file, never bytes: what they hold goes from the page cache to the socket. A sealed spool is
drained to its end. A failed one is left at once: what was published is a part of nothing, and its file is going away.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import BinaryIO, NamedTuple, Self

from streamer.spool.spool import Spool

WINDOW = 8 * 1024 * 1024  # bytes handed over at a time


class Extent(NamedTuple):
    """`length` bytes from `offset` on."""

    offset: int
    length: int

    def first(self, length: int) -> "Extent":
        """Its first bytes, at most so many."""
        return Extent(self.offset, min(self.length, length))

    def after(self, length: int) -> "Extent":
        """What is left of it behind so many bytes."""
        return Extent(self.offset + length, self.length - length)


class TruncatedError(Exception):
    """The spool ended before its end: what was read is a part of nothing."""


class Follower:
    """One reader's place in a spool, and a file object of its own.

    Iterating gives the extents from `start` to `stop`, or to the end of the export if that comes first, each as soon as
    it is published, and raises TruncatedError with the reason if the spool fails. The file is there once there is an
    extent. `before_first` is awaited before the first of them is given. `head` gives the first bytes of the export
    where they are known before anything is published.
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
        """Done, with the reason, when the rest will never come."""
        return self._spool.broken

    @property
    def caught_up(self) -> bool:
        """Whether the next extent has still to be published."""
        return self._offset >= self._spool.frontier

    async def early(self) -> bytes:
        """What is known of its bytes before there is an extent; the extents then begin behind it."""
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
            before, self._before_first = self._before_first, None
            await before()
        return extent
