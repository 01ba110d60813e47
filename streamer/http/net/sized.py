"""A body of known length on its connection. It breaks with a reset; every client also counts the bytes it has got."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamer.http.net.line import SHORTER, Line, Readable
from streamer.http.net.places import Share
from streamer.spool.follower import Extent, TruncatedError
from streamer.spool.pagecache import is_cached

SMALLEST_PIECE = 256 * 1024  # bytes sent by one sendfile
LARGEST_PIECE = 4 * 1024 * 1024
SLOW = 0.5  # seconds for a piece: half of it is enough
FAST = 0.1  # seconds for a piece: it may be twice as long


class SizedLine(Line):
    """Sends by sendfile, a fast client large pieces and a slow one small ones, whose pages are still in memory when
    their turn comes.

    In a crowd bytes are copied, as many as the client's share has room for. By sendfile the pages themselves would wait
    in the sockets, here and on a client's side of the same machine, and could not be taken back: a thousand clients who
    stop at different places would hold all the memory of a container.
    """

    def __init__(self, request: web.Request, source: Readable) -> None:
        super().__init__(request, source)
        self._piece = LARGEST_PIECE

    async def write(self, response: web.StreamResponse, piece: bytes) -> None:
        """Sends bytes that are in memory."""
        with self._whole():
            self._go_on()
            if self._share:
                await self._write_shared(self._share, response, memoryview(piece))
            else:
                await self._until(response.write(piece))

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent, or resets the connection and raises."""
        send = self._copy if self._share else self._send_pages
        with self._whole():
            await self._flushed()
            while extent.length:
                extent = extent.after(await send(extent))

    async def _write_shared(self, share: Share, response: web.StreamResponse, rest: memoryview) -> None:
        while rest:
            room = await self._found_room()
            await self._until(response.write(rest[:room]))
            share.look(self._socket)
            rest = rest[room:]

    async def _copy(self, extent: Extent) -> int:
        """Sends some of its first bytes, and returns how many."""
        length = min(extent.length, await self._found_room())
        sent = self._give([await self._read(extent, length)])
        await self._paced(sent)
        return sent

    async def _send_pages(self, extent: Extent) -> int:
        """The same by sendfile."""
        self._go_on()
        loop = asyncio.get_running_loop()
        file = self._source.file
        piece = extent.first(self._piece)
        if not is_cached(file.fileno(), *piece):
            await self._load(file.fileno(), piece)
        begun = loop.time()
        if await self._until(loop.sendfile(self._transport, file, *piece)) != piece.length:
            raise TruncatedError(SHORTER)
        self._adapt_to(loop.time() - begun)
        return piece.length

    def _adapt_to(self, seconds: float) -> None:
        if seconds > SLOW:
            self._piece = max(SMALLEST_PIECE, self._piece // 2)
        elif seconds < FAST:
            self._piece = min(LARGEST_PIECE, self._piece * 2)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is sent within is sent to its end, or the connection is reset."""
        try:
            yield
        except BaseException:
            self._reset()
            raise
