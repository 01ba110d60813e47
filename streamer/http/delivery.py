"""The body writers. What they promise: a body is whole, or the connection breaks in a way that every client can see.

Bytes go from the page cache to the socket by sendfile; none is held here. In a chunked body the frame is ours, chunk
head, sendfile, line end, and the final chunk is aiohttp's. A `DownloadResponse` refuses to write that final chunk until
its body is known to be whole, so no path through a handler, foreseen or not, can end a truncated body well.

A body that breaks at a chunk boundary is closed (FIN): clients see that the final chunk is missing, and wget comes back
for the rest. Within a chunk, or within a body of known length, the connection is reset: wget takes a FIN inside a chunk
for the end.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from aiohttp import web

from streamer.protocol.ranges import Slice
from streamer.spool.follower import Extent, Follower, TruncatedError, extents

log = logging.getLogger(__name__)

LINGER_AND_RESET = struct.pack("ii", 1, 0)

Part = bytes | Slice
"""A piece of a body: bytes as they are, or a slice of the file."""


class DownloadResponse(web.StreamResponse):
    """A response whose end can only be written once its body is whole."""

    whole = False

    @contextmanager
    def body(self) -> Iterator[None]:
        """The body is written within, and is whole if nothing was raised. A break is told by the connection alone."""
        try:
            yield
        except TruncatedError as error:
            log.warning("a download was broken off: %s", error)
        except ConnectionError:
            log.info("a client left its download")
        else:
            self.whole = True

    async def write_eof(self, data: bytes = b"") -> None:
        if not self.whole:
            raise ConnectionResetError("the body is not whole")
        await super().write_eof(data)


async def send_followed(request: web.Request, response: DownloadResponse, follower: Follower) -> None:
    """What the follower gives, each extent as a chunk as soon as it is published."""
    response.enable_chunked_encoding()
    with response.body():
        await response.prepare(request)
        line = Line(request, follower.broken)
        async for extent in follower:
            await line.send_chunk(follower.file, extent)


async def send_parts(
    request: web.Request,
    response: DownloadResponse,
    file: BinaryIO,
    parts: Sequence[Part],
    broken: "asyncio.Future[str] | None" = None,
) -> None:
    """A body of known length."""
    response.content_length = length_of(parts)
    with response.body():
        await response.prepare(request)
        line = Line(request, broken)
        for part in parts:
            if isinstance(part, bytes):
                await response.write(part)
            else:
                for extent in extents(part.start, part.stop):
                    await line.send(file, extent)


async def send_head(request: web.Request, response: DownloadResponse, length: int | None = None) -> None:
    """The answer to HEAD: the headers of GET."""
    response.content_length = length
    with response.body():
        await response.prepare(request)


def length_of(parts: Sequence[Part]) -> int:
    """In bytes."""
    return sum(len(part) if isinstance(part, bytes) else part.length for part in parts)


class Line:
    """One connection while a body goes through it. Raises ConnectionResetError when the client has gone.

    `broken` is done, with the reason, when the rest of the body will never come: what is being sent is then cut.
    """

    def __init__(self, request: web.Request, broken: "asyncio.Future[str] | None" = None) -> None:
        self._connection = request.transport  # the request forgets it when the server closes
        self._broken = broken

    async def send_chunk(self, file: BinaryIO, extent: Extent) -> None:
        """RFC 9112, 7.1."""
        self._transport.write(b"%x\r\n" % extent.length)
        await self.send(file, extent)
        self._transport.write(b"\r\n")

    async def send(self, file: BinaryIO, extent: Extent) -> None:
        """Sends all of the extent, or resets the connection and raises."""
        loop = asyncio.get_running_loop()
        if await self.complete(loop.sendfile(self._transport, file, *extent)) != extent.length:
            self._reset()
            raise TruncatedError("the file of the export is shorter than it was")

    async def complete(self, sending: Coroutine[Any, Any, Any]) -> Any:
        """The result of `sending`; if it fails, or the rest will never come, the connection is reset."""
        task = asyncio.ensure_future(sending)
        ends: set[asyncio.Future[Any]] = {task, self._broken} if self._broken else {task}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        except BaseException:
            await self._give_up(task)
            raise
        await self._give_up(task)
        assert self._broken is not None
        raise TruncatedError(self._broken.result())

    async def _give_up(self, task: "asyncio.Future[Any]") -> None:
        """Ends the sending first: a socket that is closed under a sendfile leaves its descriptor in the selector."""
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._reset()

    def _reset(self) -> None:
        if transport := self._connection:
            if (connection := transport.get_extra_info("socket")) is not None and connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
            transport.abort()

    @property
    def _transport(self) -> asyncio.Transport:
        if self._connection is None or self._connection.is_closing():
            raise ConnectionResetError("the client has gone")
        return self._connection
