"""The body writers. What they promise: a body is whole, or the connection breaks in a way that every client can see.

Bytes go from the page cache to the socket, by sendfile or, in a crowd, through one buffer that all share; a thread
loads what the page cache has not. In a chunked body the frame is ours, chunk head, bytes, line end, and the final chunk
is aiohttp's. A `DownloadResponse` refuses to write that final chunk until its body is known to be whole, so no path
through a handler, foreseen or not, can end a truncated body well.

A body that breaks at a chunk boundary is closed (FIN): clients see that the final chunk is missing, and wget comes back
for the rest. Within a chunk, or within a body of known length, the connection is reset: wget takes a FIN inside a chunk
for the end.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from aiohttp import web

from streamer.errors import ClientError
from streamer.http.places import ROOMY, SHARE
from streamer.http.room import ROOM, is_full
from streamer.protocol.ranges import Slice
from streamer.spool.follower import Extent, Follower, TruncatedError
from streamer.spool.pagecache import is_cached, load, read_into_if_cached

T = TypeVar("T")

log = logging.getLogger(__name__)

LINGER_AND_RESET = struct.pack("ii", 1, 0)
SMALLEST_PIECE = 256 * 1024  # bytes sent by one sendfile
LARGEST_PIECE = 4 * 1024 * 1024
SLOW = 0.5  # seconds for a piece: half of it is enough
FAST = 0.1  # seconds for a piece: it may be twice as long
SCRATCH = memoryview(bytearray(64 * 1024))
READ_AHEAD_BYTES = 1024 * 1024
SHORTER = "the file of the export is shorter than it was"
READ_AHEAD = web.AppKey("read ahead", Executor)

Part = bytes | Slice
"""A piece of a body: bytes as they are, or a slice of the file."""


class Readable(Protocol):
    """What a body is read from. `broken` is done, with the reason, when the rest of the body will never come."""

    @property
    def file(self) -> BinaryIO: ...

    @property
    def broken(self) -> "asyncio.Future[str] | None": ...


class DownloadResponse(web.StreamResponse):
    """A response whose end can only be written once its body is whole."""

    whole = False

    @contextmanager
    def body(self) -> Iterator[None]:
        """The body is written within, and is whole if nothing was raised. A break is told by the connection alone."""
        try:
            yield
        except (TruncatedError, ClientError) as error:
            log.warning("a download was broken off: %s", error)
        except ConnectionError:
            log.info("a client left its download")
        except TimeoutError:
            log.info("a client stopped reading its download")
        else:
            self.whole = True

    async def begin(self, request: web.Request) -> bool:
        """Sends the headers. False for HEAD, to which they are the whole answer: then no file is touched."""
        await self.prepare(request)
        return request.method != "HEAD"

    async def send_at_once(self, request: web.Request, body: bytes | bytearray) -> None:
        """A body in memory. It is not kept: aiohttp remembers a connection's last response until the next."""
        self.content_length = len(body)
        with self.body():
            await self.prepare(request)
            await super().write_eof(cast("bytes", body))

    async def write_eof(self, data: bytes = b"") -> None:
        if not self.whole:
            raise ConnectionResetError("the body is not whole")
        await super().write_eof(data)


async def send_followed(request: web.Request, response: DownloadResponse, follower: Follower) -> None:
    """What the follower gives, each extent as a chunk as soon as it is published."""
    response.enable_chunked_encoding()
    with response.body():
        if await response.begin(request):
            line = Line(request, follower)
            async for extent in follower:
                await line.send_chunk(extent)


async def send_parts(request: web.Request, response: DownloadResponse, source: Readable, parts: Sequence[Part]) -> None:
    """A body of known length."""
    response.content_length = length_of(parts)
    with response.body():
        if await response.begin(request):
            line = Line(request, source)
            for part in parts:
                if isinstance(part, bytes):
                    await line.complete(response.write(part))
                else:
                    await line.send(Extent(part.start, part.length))


def length_of(parts: Sequence[Part]) -> int:
    """In bytes."""
    return sum(len(part) if isinstance(part, bytes) else part.length for part in parts)


class Line:
    """One connection while a body goes through it. Raises ConnectionResetError when the client has gone.

    What is being sent is cut when the source breaks. A fast client gets large pieces, a slow one small ones, whose
    pages are still in memory when their turn comes.

    In a crowd bytes are copied, through one buffer that all lines share, because nothing is awaited between the reading
    and the sending. By sendfile the pages themselves would wait in the sockets, here and on a client's side of the same
    machine, and could not be taken back: a thousand clients who stop at different places would hold all the memory of a
    container.
    """

    def __init__(self, request: web.Request, source: Readable) -> None:
        self._connection = request.transport  # the request forgets it when the server closes
        self._read_ahead = request.app[READ_AHEAD]
        self._writer = request.writer
        self._share = request[SHARE]  # bytes
        self._room = request.app[ROOM]
        self._source = source
        self._piece = LARGEST_PIECE

    async def send_chunk(self, extent: Extent) -> None:
        """RFC 9112, 7.1."""
        self._transport.write(b"%x\r\n" % extent.length)
        await self.send(extent)
        self._transport.write(b"\r\n")

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent, or resets the connection and raises."""
        send = self._copy if self._share < ROOMY else self._send_pages
        offset, stop = extent.offset, extent.offset + extent.length
        while offset < stop:
            offset += await send(offset, stop - offset)

    async def _copy(self, offset: int, length: int) -> int:
        """Sends some bytes, and returns how many."""
        if self._transport.get_write_buffer_size():
            await self.complete(self._writer.drain())  # the headers, or the frame
        if is_full(self._socket, self._share):
            await self.complete(self._room.found(self._socket))
        fd = self._file().fileno()
        piece = SCRATCH[: min(length, len(SCRATCH))]
        if not read_into_if_cached(fd, offset, piece):
            await self._load(fd, Extent(offset, min(length, READ_AHEAD_BYTES)))
            if os.preadv(fd, [piece], offset) < len(piece):
                self._reset()
                raise TruncatedError(SHORTER)
        sent = self._give(piece)
        if sent == len(piece):
            await self.complete(asyncio.sleep(0))
        elif not sent:
            await self.complete(self._room.found(self._socket))
        return sent

    def _give(self, piece: memoryview) -> int:
        """The bytes for which there is room in the socket."""
        sent = 0
        try:
            while sent < len(piece):
                sent += os.write(self._socket.fileno(), piece[sent : sent + self._share // 2])
                if is_full(self._socket, self._share):
                    break
        except BlockingIOError:
            pass
        except OSError:
            self._reset()
            raise
        return sent

    async def _send_pages(self, offset: int, length: int) -> int:
        """The same by sendfile."""
        loop = asyncio.get_running_loop()
        file = self._file()
        piece = Extent(offset, min(self._piece, length))
        if not is_cached(file.fileno(), *piece):
            await self._load(file.fileno(), piece)
        begun = loop.time()
        if await self.complete(loop.sendfile(self._transport, file, *piece)) != piece.length:
            self._reset()
            raise TruncatedError(SHORTER)
        self._adapt_to(loop.time() - begun)
        return piece.length

    async def _load(self, fd: int, extent: Extent) -> None:
        """What the page cache has not would hold the event loop."""
        await self.complete(in_thread(self._read_ahead, partial(load, fd, *extent)))

    def _file(self) -> BinaryIO:
        try:
            return self._source.file
        except TruncatedError:
            self._reset()
            raise

    def _adapt_to(self, seconds: float) -> None:
        if seconds > SLOW:
            self._piece = max(SMALLEST_PIECE, self._piece // 2)
        elif seconds < FAST:
            self._piece = min(LARGEST_PIECE, self._piece * 2)

    async def complete(self, sending: Coroutine[Any, Any, Any]) -> Any:
        """The result of `sending`; if it fails, or the rest will never come, the connection is reset."""
        task = asyncio.ensure_future(sending)
        broken = self._source.broken
        ends: set[asyncio.Future[Any]] = {task, broken} if broken else {task}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        except BaseException:
            await self._give_up(task)
            raise
        await self._give_up(task)
        assert broken is not None
        raise TruncatedError(broken.result())

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
    def _socket(self) -> socket.socket:
        connection: socket.socket = self._transport.get_extra_info("socket")
        return connection

    @property
    def _transport(self) -> asyncio.Transport:
        if self._connection is None or self._connection.is_closing():
            raise ConnectionResetError("the client has gone")
        return self._connection


async def in_thread(executor: Executor, act: Callable[[], T]) -> T:
    """Returns or raises only when the thread has let go of what it works on."""
    work = asyncio.get_running_loop().run_in_executor(executor, act)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.wait({work})
        raise
