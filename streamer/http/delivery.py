"""The body writers. What they promise: a body is whole, or the connection breaks in a way that every client can see.

Bytes go from the page cache to the socket by sendfile; none is held here. In a chunked body the frame is ours, chunk
head, sendfile, line end, and the final chunk is aiohttp's. A `DownloadResponse` refuses to write that final chunk until
its body is known to be whole, so no path through a handler, foreseen or not, can end a truncated body well.

A body that breaks at a chunk boundary is closed (FIN): clients see that the final chunk is missing, and wget comes back
for the rest. Within a chunk, or within a body of known length that nobody waits for any more, the connection is reset:
wget takes a FIN inside a chunk for the end.
"""

import asyncio
import socket
import struct
from typing import Any, BinaryIO

from aiohttp import web

from streamer.spool.follower import Extent, Follower, TruncatedError, extents

LINGER_AND_RESET = struct.pack("ii", 1, 0)


class DownloadResponse(web.StreamResponse):
    """A response whose end can only be written once its body is whole."""

    whole = False

    async def write_eof(self, data: bytes = b"") -> None:
        if not self.whole:
            raise ConnectionResetError("the body is not whole")
        await super().write_eof(data)


async def send_live(request: web.Request, response: DownloadResponse, follower: Follower) -> None:
    """The whole export, each extent as a chunk as soon as it is published. Raises TruncatedError."""
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for extent in follower:
        await _Line(request, follower.file, follower.broken).send_chunk(extent)
    response.whole = True


async def send_sealed(request: web.Request, response: DownloadResponse, file: BinaryIO, length: int) -> None:
    """`length` bytes from the start of a file that no longer changes. Raises TruncatedError."""
    response.content_length = length
    await response.prepare(request)
    line = _Line(request, file)
    for extent in extents(0, length):
        await line.send(extent)
    response.whole = True


async def send_head(request: web.Request, response: DownloadResponse, length: int | None = None) -> None:
    """The answer to HEAD: the headers of GET."""
    response.content_length = length
    response.whole = True
    await response.prepare(request)


class _Line:
    """One connection while a file goes through it. Raises ConnectionResetError when the client has gone."""

    def __init__(self, request: web.Request, file: BinaryIO, broken: "asyncio.Future[str] | None" = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._file = file
        self._broken = broken

    async def send_chunk(self, extent: Extent) -> None:
        """RFC 9112, 7.1."""
        self._transport.write(b"%x\r\n" % extent.length)
        await self.send(extent)
        self._transport.write(b"\r\n")

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent, or resets the connection and raises."""
        sending = self._loop.create_task(self._loop.sendfile(self._transport, self._file, *extent))
        ends: set[asyncio.Future[Any]] = {sending, self._broken} if self._broken else {sending}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            sent = sending.result() if sending.done() else 0
        except BaseException:
            await self._reset(sending)
            raise
        if sent < extent.length:
            await self._reset(sending)
            raise TruncatedError(self._why_short())

    def _why_short(self) -> str:
        if self._broken and self._broken.done():
            return self._broken.result()
        return "the file of the export is shorter than it was"

    async def _reset(self, sending: "asyncio.Task[int]") -> None:
        """Ends the sending first: a socket that is closed under a sendfile leaves its descriptor in the selector."""
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        if transport := self._request.transport:
            if (connection := transport.get_extra_info("socket")) is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
            transport.abort()

    @property
    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        return transport
