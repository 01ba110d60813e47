"""One connection while a body goes through it: from the page cache to the socket, and never past a break.

By sendfile, or, in a crowd, through one buffer that all share; a thread loads what the page cache has not. What is
being sent is cut when the source breaks.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Protocol, Self, TypeVar

from aiohttp import web

from streamer.http.places import MOST_SHARE, SHARE, Share
from streamer.http.room import LEAST_SHARE, ROOM
from streamer.spool.follower import Extent, TruncatedError
from streamer.spool.pagecache import is_cached, load, read_into_if_cached

T = TypeVar("T")

LINGER_AND_RESET = struct.pack("ii", 1, 0)
SMALLEST_PIECE = 256 * 1024  # bytes sent by one sendfile
LARGEST_PIECE = 4 * 1024 * 1024
SLOW = 0.5  # seconds for a piece: half of it is enough
FAST = 0.1  # seconds for a piece: it may be twice as long
SCRATCH = memoryview(bytearray(MOST_SHARE))
LEAST_PIECE = LEAST_SHARE // 2  # bytes; of a socket that has been shut only the next write says so
READ_AHEAD_BYTES = 1024 * 1024
SHORTER = "the file of the export is shorter than it was"
READ_AHEAD = web.AppKey("read ahead", Executor)


class Readable(Protocol):
    """What a body is read from. `broken` is done, with the reason, when the rest of the body will never come."""

    @property
    def file(self) -> BinaryIO: ...

    @property
    def broken(self) -> "asyncio.Future[str] | None": ...


class Line:
    """One connection while a body goes through it. Raises ConnectionResetError when the client has gone.

    By sendfile a fast client gets large pieces, a slow one small ones, whose pages are still in memory when their turn
    comes.

    In a crowd bytes are copied, as many as the client's share has room for, through one buffer that all lines share,
    because nothing is awaited between the reading and the sending. By sendfile the pages themselves would wait in the
    sockets, here and on a client's side of the same machine, and could not be taken back: a thousand clients who stop
    at different places would hold all the memory of a container.
    """

    def __init__(self, request: web.Request, source: Readable) -> None:
        self._connection = request.transport  # the request forgets it when the server closes
        self._read_ahead = request.app[READ_AHEAD]
        self._writer = request.writer
        self._share = request.get(SHARE)
        self._room = request.app[ROOM]
        self._source = source
        self._broken = source.broken
        self._sending: asyncio.Future[Any] | None = None
        self._piece = LARGEST_PIECE

    def __enter__(self) -> Self:
        if self._broken:
            self._broken.add_done_callback(self._cut)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._broken:
            self._broken.remove_done_callback(self._cut)

    async def write(self, response: web.StreamResponse, piece: bytes) -> None:
        """Sends bytes that are in memory."""
        with self._whole():
            self._go_on()
            if self._share:
                await self._write_shared(self._share, response, memoryview(piece))
            else:
                await self._until(response.write(piece))

    async def send_chunk(self, extent: Extent) -> None:
        """RFC 9112, 7.1."""
        self._transport.write(b"%x\r\n" % extent.length)
        await self.send(extent)
        self._transport.write(b"\r\n")

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent, or resets the connection and raises."""
        offset, stop = extent.offset, extent.offset + extent.length
        with self._whole():
            while offset < stop:
                if self._share:
                    offset += await self._copy(self._share, offset, stop - offset)
                else:
                    offset += await self._send_pages(offset, stop - offset)

    async def _write_shared(self, share: Share, response: web.StreamResponse, rest: memoryview) -> None:
        while rest:
            room = await self._found_room(share)
            await self._until(response.write(rest[:room]))
            share.look(self._socket)
            rest = rest[room:]

    async def _copy(self, share: Share, offset: int, length: int) -> int:
        """Sends some bytes, and returns how many."""
        if self._transport.get_write_buffer_size():
            await self._until(self._writer.drain())  # the headers, or the frame
        room = await self._found_room(share)
        fd = self._source.file.fileno()
        piece = SCRATCH[: min(length, room)]
        if not read_into_if_cached(fd, offset, piece):
            await self._load(fd, Extent(offset, min(length, READ_AHEAD_BYTES)))
            if os.preadv(fd, [piece], offset) < len(piece):
                raise TruncatedError(SHORTER)
        sent = self._give(piece)
        share.look(self._socket)
        if not sent:
            await self._until(self._room.found(self._socket, share.look))
        elif share.room(self._socket):
            await self._until(self._room.turn())
        return sent

    async def _found_room(self, share: Share) -> int:
        """Bytes for which there is room, as soon as there is."""
        self._go_on()
        room = share.room(self._socket)
        if not room:
            await self._until(self._room.found(self._socket, share.look))
            room = max(share.room(self._socket), LEAST_PIECE)
        return room

    def _give(self, piece: memoryview) -> int:
        """The bytes for which there is room in the socket."""
        try:
            return os.write(self._socket.fileno(), piece)
        except BlockingIOError:
            return 0

    async def _send_pages(self, offset: int, length: int) -> int:
        """The same by sendfile."""
        self._go_on()
        loop = asyncio.get_running_loop()
        file = self._source.file
        piece = Extent(offset, min(self._piece, length))
        if not is_cached(file.fileno(), *piece):
            await self._load(file.fileno(), piece)
        begun = loop.time()
        if await self._until(loop.sendfile(self._transport, file, *piece)) != piece.length:
            raise TruncatedError(SHORTER)
        self._adapt_to(loop.time() - begun)
        return piece.length

    async def _load(self, fd: int, extent: Extent) -> None:
        """What the page cache has not would hold the event loop."""
        await self._until(in_thread(self._read_ahead, partial(load, fd, *extent)))

    def _adapt_to(self, seconds: float) -> None:
        if seconds > SLOW:
            self._piece = max(SMALLEST_PIECE, self._piece // 2)
        elif seconds < FAST:
            self._piece = min(LARGEST_PIECE, self._piece * 2)

    async def _until(self, sending: Awaitable[T]) -> T:
        """Its result. It ends in any case before anything is raised: a socket that is closed under a sendfile leaves
        its descriptor in the selector."""
        self._sending = asyncio.ensure_future(sending)
        try:
            result: T = await self._sending
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self._go_on()
            raise
        return result

    def _cut(self, _: "asyncio.Future[str]") -> None:
        if self._sending:
            self._sending.cancel()

    def _go_on(self) -> None:
        if self._broken and self._broken.done():
            raise TruncatedError(self._broken.result())

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is sent within is sent to its end, or the connection is reset."""
        try:
            yield
        except BaseException:
            self._reset()
            raise

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
