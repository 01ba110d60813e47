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
from streamer.http.net.readiness import MIN_QUOTA, buffer_holding, buffer_writable_below, queued_bytes, set_send_buffer

MAX_UNLIMITED = 2  # downloads at once that are no crowd
BUDGET = 5632 * 1024  # bytes that a crowd may hold beyond its least shares
BUDGET_FRACTION = 22  # one may hold a 22nd of what the others leave
MAX_QUOTA = 256 * 1024  # bytes that one may hold
INITIAL_BUFFER = 768 * 1024  # bytes of a buffer that is left to the kernel, at first
SO_BUF_LOCK, SOCK_RCVBUF_LOCK = 72, 2  # asm-generic/socket.h, Linux 5.14: which buffers keep the size they were given


class SendBufferBudget:
    """What a crowd may hold: bytes that are still free."""

    def __init__(self) -> None:
        self.free = BUDGET


class SendBufferQuota:
    """What the connection of one download in a crowd holds of the pool. To be released when the download is over."""

    def __init__(self, pool: SendBufferBudget) -> None:
        self._pool = pool
        self._held = 0  # bytes, at the last look
        self._borrowed = 0  # bytes of the pool
        self._buffer = 0  # bytes, as the kernel was told; 0 if it was not

    def writable(self, connection: socket.socket) -> int:
        """Bytes that may be given to the client, and that its socket takes at once, as things were at the last look.

        0 while more than a quarter waits; then epoll calls the socket writable when it is no more. A crowd that is
        woken for every few kilobytes would keep the server from sending.
        """
        limit = min(MIN_QUOTA + max(0, self._pool.free + self._borrowed) // BUDGET_FRACTION, MAX_QUOTA)
        few = max(limit // 4, MIN_QUOTA // 2)
        if self._held > few:
            self._limit_waiting(connection, buffer_writable_below(few))
            return 0
        self._limit_waiting(connection, buffer_holding(limit))
        return limit - self._held

    def update(self, connection: socket.socket) -> None:
        """Accounts for what the connection holds now."""
        self._held = queued_bytes(connection)
        self._borrow(max(0, self._held - MIN_QUOTA))

    def release(self) -> None:
        self._borrow(0)

    def _borrow(self, size: int) -> None:
        self._pool.free += self._borrowed - size
        self._borrowed = size

    def _limit_waiting(self, connection: socket.socket, size: int) -> None:
        if size != self._buffer:
            set_send_buffer(connection, size)
            self._buffer = size


SEND_BUFFER_QUOTA = web.RequestKey("share", SendBufferQuota)


class DownloadSlots:
    """At most `capacity` downloads at once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._pool = SendBufferBudget()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def acquire(self, request: web.Request) -> Iterator[None]:
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
    def free_budget(self) -> int:
        """Bytes of the pool that nobody holds."""
        return self._pool.free

    async def wait_empty(self) -> None:
        """Returns when there is no download."""
        await self._empty.wait()

    @contextmanager
    def _buffered(self, request: web.Request) -> Iterator[None]:
        """While a download goes through the connection, it may hold more than others."""
        if request.transport is None:
            yield
            return
        connection: socket.socket = request.transport.get_extra_info("socket")
        share = SendBufferQuota(self._pool)
        if self._taken > MAX_UNLIMITED:
            request[SEND_BUFFER_QUOTA] = share
        else:
            _let_kernel_size_buffer(connection)
        try:
            yield
        finally:
            share.release()
            if connection.fileno() >= 0:
                set_send_buffer(connection, MIN_QUOTA)


def _let_kernel_size_buffer(connection: socket.socket) -> None:
    """It adapts the send buffer to the network again (tcp(7), tcp_wmem), from a large one on."""
    set_send_buffer(connection, INITIAL_BUFFER)
    with suppress(OSError):  # an older kernel leaves it as it is
        connection.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, SOCK_RCVBUF_LOCK)


def max_queued_bytes(capacity: int, alone: int) -> int:
    """Bytes that can wait in the sockets of `capacity` clients, where one that is no crowd has `alone`."""
    crowd = max(0, capacity - MAX_UNLIMITED)
    return min(capacity, MAX_UNLIMITED) * alone + (BUDGET + crowd * MIN_QUOTA if crowd else 0)
