"""Sends a body of known length. If it breaks, the connection is reset; every client also counts the bytes it received.

There are two algorithms. sendfile(2) hands pages of the page cache to the socket without a copy. Those pages stay
pinned in the sockets, on the client's side of the same machine too, and cannot be reclaimed: a thousand clients that
stop at different places would hold all the memory of a container. So only the first downloads use it; all others copy,
and each copies as many bytes as its quota allows.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamer.http.net.body_sender import FILE_IS_SHORTER, BodySender, Readable
from streamer.http.net.send_buffers import SEND_BUFFER_QUOTA
from streamer.spool.follower import Extent, TruncatedError
from streamer.spool.pagecache import is_cached

MIN_PIECE = 256 * 1024  # bytes sent by one sendfile
MAX_PIECE = 4 * 1024 * 1024
SLOW = 0.5  # seconds for one sendfile: the next piece is half as large
FAST = 0.1  # seconds for one sendfile: the next piece is twice as large


class SizedSender(BodySender):
    """The interface of both algorithms."""

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent. Resets the connection and raises if it cannot."""
        with self._whole_or_reset():
            await self._wait_flushed()
            while extent.length:
                extent = extent.after(await self._send_some(extent))

    async def write(self, piece: bytes) -> None:
        """Sends bytes that are in memory. Resets the connection and raises if it cannot."""
        with self._whole_or_reset():
            await self._write_all(memoryview(piece))

    async def _send_some(self, extent: Extent) -> int:
        """Sends some of its first bytes. Returns their number."""
        raise NotImplementedError

    async def _write_all(self, piece: memoryview) -> None:
        raise NotImplementedError

    @contextmanager
    def _whole_or_reset(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._reset()
            raise


class SendfileSender(SizedSender):
    """Sends by sendfile(2).

    The piece sent at a time adapts to the client: large for a fast one, small for a slow one, so that the pages of a
    piece are still in the page cache when they are sent.
    """

    def __init__(self, request: web.Request, source: Readable) -> None:
        super().__init__(request, source)
        self._piece = MAX_PIECE

    async def _send_some(self, extent: Extent) -> int:
        self._check_source()
        loop = asyncio.get_running_loop()
        file = self._source.file
        piece = extent.first(self._piece)
        if not is_cached(file.fileno(), *piece):
            await self._load(file.fileno(), piece)
        started = loop.time()
        if await self._await(loop.sendfile(self._transport, file, *piece)) != piece.length:
            raise TruncatedError(FILE_IS_SHORTER)
        self._adapt_to(loop.time() - started)
        return piece.length

    async def _write_all(self, piece: memoryview) -> None:
        self._check_source()
        await self._await(self._writer.write(piece))

    def _adapt_to(self, seconds: float) -> None:
        if seconds > SLOW:
            self._piece = max(MIN_PIECE, self._piece // 2)
        elif seconds < FAST:
            self._piece = min(MAX_PIECE, self._piece * 2)


class CopyingSender(SizedSender):
    """Copies bytes to the socket, at most as many at a time as the quota of the download allows."""

    async def _send_some(self, extent: Extent) -> int:
        length = min(extent.length, await self._wait_writable())
        sent = self._write([self._within_quota(await self._read(extent, length))])
        await self._pace(sent)
        return sent

    async def _write_all(self, piece: memoryview) -> None:
        await self._wait_flushed()
        while piece:
            sent = self._write([piece[: await self._wait_writable()]])
            await self._pace(sent)
            piece = piece[sent:]


def sized_sender(request: web.Request, source: Readable) -> SizedSender:
    """The sender for this download: CopyingSender if it has a quota, SendfileSender otherwise."""
    return CopyingSender(request, source) if SEND_BUFFER_QUOTA in request else SendfileSender(request, source)
