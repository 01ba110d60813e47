"""A body of known length on its connection. It breaks with a reset; every client also counts the bytes it has got."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamer.http.net.body_sender import FILE_IS_SHORTER, BodySender, Readable
from streamer.http.net.send_buffers import SendBufferQuota
from streamer.spool.follower import Extent, TruncatedError
from streamer.spool.pagecache import is_cached

MIN_PIECE = 256 * 1024  # bytes sent by one sendfile
MAX_PIECE = 4 * 1024 * 1024
SLOW = 0.5  # seconds for a piece: half of it is enough
FAST = 0.1  # seconds for a piece: it may be twice as long


class SizedLine(BodySender):
    """Sends by sendfile, a fast client large pieces and a slow one small ones, whose pages are still in memory when
    their turn comes.

    In a crowd bytes are copied, as many as the client's share has room for. By sendfile the pages themselves would wait
    in the sockets, here and on a client's side of the same machine, and could not be taken back: a thousand clients who
    stop at different places would hold all the memory of a container.
    """

    def __init__(self, request: web.Request, source: Readable) -> None:
        super().__init__(request, source)
        self._piece = MAX_PIECE

    async def write(self, response: web.StreamResponse, piece: bytes) -> None:
        """Sends bytes that are in memory."""
        with self._whole():
            self._check_source()
            if self._quota:
                await self._write_shared(self._quota, response, memoryview(piece))
            else:
                await self._await(response.write(piece))

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent, or resets the connection and raises."""
        send = self._copy if self._quota else self._send_pages
        with self._whole():
            await self._wait_flushed()
            while extent.length:
                extent = extent.after(await send(extent))

    async def _write_shared(self, share: SendBufferQuota, response: web.StreamResponse, rest: memoryview) -> None:
        while rest:
            room = await self._wait_writable()
            await self._await(response.write(rest[:room]))
            share.update(self._socket)
            rest = rest[room:]

    async def _copy(self, extent: Extent) -> int:
        """Sends some of its first bytes, and returns how many."""
        length = min(extent.length, await self._wait_writable())
        sent = self._write([await self._read(extent, length)])
        await self._pace(sent)
        return sent

    async def _send_pages(self, extent: Extent) -> int:
        """The same by sendfile."""
        self._check_source()
        loop = asyncio.get_running_loop()
        file = self._source.file
        piece = extent.first(self._piece)
        if not is_cached(file.fileno(), *piece):
            await self._load(file.fileno(), piece)
        begun = loop.time()
        if await self._await(loop.sendfile(self._transport, file, *piece)) != piece.length:
            raise TruncatedError(FILE_IS_SHORTER)
        self._adapt_to(loop.time() - begun)
        return piece.length

    def _adapt_to(self, seconds: float) -> None:
        if seconds > SLOW:
            self._piece = max(MIN_PIECE, self._piece // 2)
        elif seconds < FAST:
            self._piece = min(MAX_PIECE, self._piece * 2)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is sent within is sent to its end, or the connection is reset."""
        try:
            yield
        except BaseException:
            self._reset()
            raise
