"""Sends one body to one connection: from the page cache to the socket, and nothing after its source has broken.

This module has what the senders of all kinds of bodies share: waiting for room in the socket, the one buffer through
which bytes are copied, loading what is not in the page cache in a thread, and stopping when the source breaks.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, BinaryIO, Protocol, Self, TypeVar

from aiohttp import web

from streamer.http.aiohttp_internals import response_writer
from streamer.http.net.readiness import MIN_QUOTA, WRITE_READINESS, ReadyCallback, writable_bytes
from streamer.http.net.resets import reset
from streamer.http.net.send_buffers import MAX_QUOTA, SEND_BUFFER_QUOTA, SendBufferQuota
from streamer.process.threads import in_thread
from streamer.spool.follower import Extent, TruncatedError
from streamer.spool.pagecache import load, read_into_if_cached

T = TypeVar("T")

SHARED_BUFFER = memoryview(bytearray(MAX_QUOTA))
MIN_PIECE = MIN_QUOTA // 2  # bytes written even without room: only a write reveals that a socket was shut down
READ_AHEAD_BYTES = 1024 * 1024
FILE_IS_SHORTER = "the file of the export is shorter than it was"
READ_AHEAD = web.AppKey("read ahead", Executor)


class Readable(Protocol):
    """The source of a body. `broken` is done, with the reason, once the rest of the body will never come."""

    @property
    def file(self) -> BinaryIO: ...

    @property
    def broken(self) -> "asyncio.Future[str] | None": ...


class BodySender:
    """Sends a body over the connection of `request`. Raises ConnectionResetError when the client has gone.

    All senders copy through one buffer. That is safe because nothing is awaited between reading into it and writing it
    to the socket.
    """

    def __init__(self, request: web.Request, source: Readable) -> None:
        self._connection = request.transport  # the request forgets it when the server closes
        self._read_ahead = request.app[READ_AHEAD]
        self._writer = response_writer(request)
        self._quota: SendBufferQuota | None = request.get(SEND_BUFFER_QUOTA)
        self._readiness = request.app[WRITE_READINESS]
        self._source = source
        self._broken = source.broken
        self._sending: asyncio.Future[Any] | None = None

    def __enter__(self) -> Self:
        if self._broken:
            self._broken.add_done_callback(self._interrupt)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._broken:
            self._broken.remove_done_callback(self._interrupt)

    async def _wait_flushed(self) -> None:
        """Waits until the transport has sent its own buffer, such as the headers: direct writes would overtake it."""
        if self._transport.get_write_buffer_size():
            await self._await(self._writer.drain())

    async def _wait_writable(self) -> int:
        """Waits until the socket has room. Returns how many bytes it takes at once."""
        self._check_source()
        room = self._writable()
        if not room:
            await self._await(self._readiness.wait(self._socket, self._on_ready))
            room = max(self._writable(), MIN_PIECE)
        return room

    def _writable(self) -> int:
        """Bytes that the socket takes at once; 0 if it has no room."""
        if self._quota:
            return self._quota.writable(self._socket)
        return min(writable_bytes(self._socket), len(SHARED_BUFFER))

    @property
    def _on_ready(self) -> ReadyCallback | None:
        return self._quota.update if self._quota else None

    async def _read(self, extent: Extent, length: int) -> memoryview:
        """Reads its first bytes into the shared buffer. To be written before anything else is awaited."""
        fd = self._source.file.fileno()
        piece = SHARED_BUFFER[:length]
        if not read_into_if_cached(fd, extent.offset, piece):
            await self._load(fd, Extent(extent.offset, min(extent.length, READ_AHEAD_BYTES)))
            if os.preadv(fd, [piece], extent.offset) < length:
                raise TruncatedError(FILE_IS_SHORTER)
        return piece

    def _within_quota(self, piece: memoryview) -> memoryview:
        """Cuts a piece to what the quota allows now: others may have used the budget while it was loaded."""
        return piece[: max(self._quota.writable(self._socket), MIN_PIECE)] if self._quota else piece

    def _write(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Writes the pieces to the socket in one system call. Returns how many bytes the socket took."""
        try:
            return os.writev(self._socket.fileno(), pieces)
        except BlockingIOError:
            return 0

    async def _pace(self, sent: int) -> None:
        """After a write of `sent` bytes: waits until the socket has room, or if it still has, for the next turn."""
        if self._quota:
            self._quota.update(self._socket)
        if not sent:
            await self._await(self._readiness.wait(self._socket, self._on_ready))
        elif self._writable():
            await self._await(self._readiness.next_turn())

    async def _load(self, fd: int, extent: Extent) -> None:
        """Loads the extent into the page cache, in a thread: reading from the disk would hold the event loop."""
        await self._await(in_thread(self._read_ahead, partial(load, fd, *extent)))

    async def _await(self, sending: Awaitable[T]) -> T:
        """Returns its result. If the source breaks, it is cancelled, and TruncatedError is raised.

        It has ended in any case before anything is raised: if a socket is closed during a sendfile, its descriptor
        stays in the selector.
        """
        self._sending = asyncio.ensure_future(sending)
        try:
            result: T = await self._sending
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self._check_source()
            raise
        return result

    def _interrupt(self, _: "asyncio.Future[str]") -> None:
        if self._sending:
            self._sending.cancel()

    def _check_source(self) -> None:
        """Raises TruncatedError if the source has broken."""
        if self._broken and self._broken.done():
            raise TruncatedError(self._broken.result())

    def _reset(self) -> None:
        if self._connection:
            reset(self._connection)

    @property
    def _socket(self) -> socket.socket:
        connection: socket.socket = self._transport.get_extra_info("socket")
        return connection

    @property
    def _transport(self) -> asyncio.Transport:
        if self._connection is None or self._connection.is_closing():
            raise ConnectionResetError("the client has gone")
        return self._connection
