"""The downloads that there may be at once, and each one's share of what may wait in the kernel for its client.

What a client has not taken yet waits in its socket, and a container pays for that as for any other memory. Left alone a
socket takes megabytes, of whatever answer. So every connection begins with the least share, and only the first
downloads leave theirs to the kernel. The others are a crowd, which has one pool: each may hold a part of what all of
them leave free, and gives back what its client takes. Who takes at once is given much at a time, and holds nothing;
who stops holds what he was given last, and the more stop, the less the next is given, down to the least share, which
everybody has. (Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches, 1998.)
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from streamer.errors import Unavailable
from streamer.http.net.room import LEAST_SHARE, buffer_for, held_for, limit_waiting, writable_at

ALONE = 2  # downloads at once that are no crowd
POOL = 5632 * 1024  # bytes that a crowd may hold beyond its least shares
PART = 22  # one may hold a 22nd of what the others leave
MOST_SHARE = 256 * 1024  # bytes that one may hold
ROOMY = 768 * 1024  # bytes of a buffer that is left to the kernel, at first
SO_BUF_LOCK, SOCK_RCVBUF_LOCK = 72, 2  # asm-generic/socket.h, Linux 5.14: which buffers keep the size they were given


class Pool:
    """What a crowd may hold: bytes that are still free."""

    def __init__(self) -> None:
        self.free = POOL


class Share:
    """What the connection of one download in a crowd holds of the pool. To be released when the download is over."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held = 0  # bytes, at the last look
        self._borrowed = 0  # bytes of the pool
        self._buffer = 0  # bytes, as the kernel was told; 0 if it was not

    def room(self, connection: socket.socket) -> int:
        """Bytes that may be given to the client, and that its socket takes at once, as things were at the last look.

        0 while more than a quarter waits; then epoll calls the socket writable when it is no more. A crowd that is
        woken for every few kilobytes would keep the server from sending.
        """
        limit = min(LEAST_SHARE + max(0, self._pool.free + self._borrowed) // PART, MOST_SHARE)
        few = max(limit // 4, LEAST_SHARE // 2)
        if self._held > few:
            self._limit_waiting(connection, writable_at(few))
            return 0
        self._limit_waiting(connection, buffer_for(limit))
        return limit - self._held

    def look(self, connection: socket.socket) -> None:
        """Accounts for what the connection holds now."""
        self._held = held_for(connection)
        self._borrow(max(0, self._held - LEAST_SHARE))

    def release(self) -> None:
        self._borrow(0)

    def _borrow(self, size: int) -> None:
        self._pool.free += self._borrowed - size
        self._borrowed = size

    def _limit_waiting(self, connection: socket.socket, size: int) -> None:
        if size != self._buffer:
            limit_waiting(connection, size)
            self._buffer = size


SHARE = web.RequestKey("share", Share)


class Places:
    """At most `capacity` downloads at once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._pool = Pool()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def one(self, request: web.Request) -> Iterator[None]:
        """A place for the answer to `request`, in a crowd with its share of the pool. Raises Unavailable."""
        if self._taken >= self._capacity:
            raise Unavailable("too many downloads at once")
        self._taken += 1
        self._empty.clear()
        try:
            with self._buffered(request):
                yield
        finally:
            self._taken -= 1
            if not self._taken:
                self._empty.set()

    @property
    def free(self) -> int:
        """Bytes of the pool that nobody holds."""
        return self._pool.free

    async def empty(self) -> None:
        """Returns when there is no download."""
        await self._empty.wait()

    @contextmanager
    def _buffered(self, request: web.Request) -> Iterator[None]:
        """While a download goes through the connection, it may hold more than others."""
        if request.transport is None:
            yield
            return
        connection: socket.socket = request.transport.get_extra_info("socket")
        share = Share(self._pool)
        if self._taken > ALONE:
            request[SHARE] = share
        else:
            _leave_to_the_kernel(connection)
        try:
            yield
        finally:
            share.release()
            if connection.fileno() >= 0:
                limit_waiting(connection, LEAST_SHARE)


def _leave_to_the_kernel(connection: socket.socket) -> None:
    """It adapts the send buffer to the network again (tcp(7), tcp_wmem), from a large one on."""
    limit_waiting(connection, ROOMY)
    with suppress(OSError):  # an older kernel leaves it as it is
        connection.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, SOCK_RCVBUF_LOCK)


def most_waiting(capacity: int, alone: int) -> int:
    """Bytes that can wait in the sockets of `capacity` clients, where one that is no crowd has `alone`."""
    crowd = max(0, capacity - ALONE)
    return min(capacity, ALONE) * alone + (POOL + crowd * LEAST_SHARE if crowd else 0)
