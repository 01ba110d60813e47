"""The reading side: a follower reads `[offset, frontier)` and sleeps until the frontier moves.

It yields extents of the file, never bytes: what they hold goes from the page cache to the socket. A sealed spool is
drained to its end. A failed one is left at once: what was published is a part of nothing, and its file is going away.
"""

import asyncio
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Self

from streamer.spool.spool import Spool

WINDOW = 1024 * 1024  # bytes handed over at a time; other followers get their turn in between


class Extent(NamedTuple):
    """`length` bytes from `offset` on."""

    offset: int
    length: int


class TruncatedError(Exception):
    """The spool ended before its end: what was read is a part of nothing."""


class Follower:
    """One reader's place in a spool, and a file object of its own.

    Iterating gives the extents to the end of the export, each as soon as it is published, and raises TruncatedError
    with the reason if the spool fails. The file is there once there is an extent.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._offset = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def file(self) -> BinaryIO:
        if self._file is None:
            try:
                self._file = self._spool.path.open("rb", buffering=0)
            except FileNotFoundError as error:
                raise TruncatedError("the file of the export is gone") from error
        return self._file

    @property
    def broken(self) -> "asyncio.Future[str]":
        """Done, with the reason, when the rest will never come."""
        return self._spool.broken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Extent:
        await self._spool.moved_beyond(self._offset)
        if self._spool.broken.done():
            raise TruncatedError(self._spool.broken.result())
        if self._offset >= self._spool.frontier:
            raise StopAsyncIteration
        extent = Extent(self._offset, min(WINDOW, self._spool.frontier - self._offset))
        self._offset += extent.length
        return extent


def extents(offset: int, end: int) -> Iterator[Extent]:
    """`[offset, end)` in windows."""
    for start in range(offset, end, WINDOW):
        yield Extent(start, min(WINDOW, end - start))
