"""The downloads that there may be at once, and each one's share of what may wait in the kernel for its client.

What a client has not taken yet waits in its socket, and a container pays for that as for any other memory. Left alone a
socket takes megabytes, of whatever answer. So every connection begins with the least share, and only the first
downloads leave theirs to the kernel; each that comes to a crowd gets an ever smaller one. All of them together stay
within a few megabytes however long they stop.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from streamer.errors import Unavailable

POOL = 1536 * 1024  # bytes: the n-th client has the n-th part of it
LEAST_SHARE = 8 * 1024
ROOMY = 768 * 1024  # a share of so much is left to the kernel, which adapts it to the network
SHARE = web.RequestKey("share", int)  # bytes
SO_BUF_LOCK, SOCK_RCVBUF_LOCK = 72, 2  # asm-generic/socket.h, Linux 5.14: which buffers keep the size they were given


class Places:
    """At most `capacity` downloads at once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def one(self, request: web.Request) -> Iterator[None]:
        """A place for the answer to `request`, with its share of the pool. Raises Unavailable."""
        if self._taken >= self._capacity:
            raise Unavailable("too many downloads at once")
        self._taken += 1
        self._empty.clear()
        share = request[SHARE] = _share_of(self._taken)
        try:
            with _buffered(request, share):
                yield
        finally:
            self._taken -= 1
            if not self._taken:
                self._empty.set()

    async def empty(self) -> None:
        """Returns when there is no download."""
        await self._empty.wait()


def _share_of(number: int) -> int:
    return max(LEAST_SHARE, POOL // number)


@contextmanager
def _buffered(request: web.Request, share: int) -> Iterator[None]:
    """While a download goes through the connection, it may hold its share."""
    if request.transport is None:
        yield
        return
    connection: socket.socket = request.transport.get_extra_info("socket")
    if share < ROOMY:
        limit_waiting(connection, share)
    else:
        _leave_to_the_kernel(connection)
    try:
        yield
    finally:
        if connection.fileno() >= 0:
            limit_waiting(connection, LEAST_SHARE)


def limit_waiting(connection: socket.socket, size: int) -> None:
    """From now on about `size` bytes may wait for the client; the kernel doubles what it is told (socket(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)


def _leave_to_the_kernel(connection: socket.socket) -> None:
    """It adapts the send buffer to the network again (tcp(7), tcp_wmem), from a large one on."""
    limit_waiting(connection, ROOMY)
    with suppress(OSError):  # an older kernel leaves it as it is
        connection.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, SOCK_RCVBUF_LOCK)


def most_waiting(capacity: int, roomy: int) -> int:
    """Bytes that can wait in the sockets of `capacity` clients, where a roomy one has `roomy`.

    A socket that is two thirds full gets no more, and half of a share at once (`room.is_full`).
    """
    shares = map(_share_of, range(1, capacity + 1))
    return sum(roomy if share >= ROOMY else share * 7 // 6 for share in shares)
