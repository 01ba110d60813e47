"""Waits until sockets can be written to, and shares the event loop fairly among the senders.

A small send buffer does not bound what the kernel queues: it fills the segment that it has begun, up to 64 kB, before
it reports that there is no room. So a sender first asks the kernel how much is queued (SO_MEMINFO), and epoll(7) wakes
it when the client has taken enough. A transport of asyncio cannot tell either: it only accepts more.
"""

import asyncio
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

MIN_QUOTA = 8 * 1024  # bytes that may be queued in any connection
TURNS_PER_ROUND = 16  # senders that continue in one round of the event loop
SO_MEMINFO = 55  # asm-generic/socket.h, Linux 4.12
MEMINFO = struct.Struct("=12xI4xI12x")  # SK_MEMINFO_SNDBUF and SK_MEMINFO_WMEM_QUEUED of linux/sock_diag.h

ReadyCallback = Callable[[socket.socket], None]


class _Waiter(NamedTuple):
    connection: socket.socket
    on_ready: ReadyCallback | None
    turn: "asyncio.Future[None]"


class WriteReadiness:
    """Wakes the senders of one event loop.

    At most `TURNS_PER_ROUND` senders continue in one round of the event loop; the others wait in one queue. So other
    work never waits until a thousand pieces have been sent. `on_ready` is called as soon as epoll reports a socket,
    before any sender continues, so that the accounting of queued bytes is never far behind.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiters: dict[int, _Waiter] = {}
        self._queue: deque[asyncio.Future[None]] = deque()
        self._turns_left = TURNS_PER_ROUND
        self._round_ends = False  # the end of this round is scheduled
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._wake)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def wait(self, connection: socket.socket, on_ready: ReadyCallback | None = None) -> "asyncio.Future[None]":
        """Returns a future that is done when the socket has room again, or can no longer be written to.

        `on_ready` is called with the socket as soon as that is known.
        """
        number = connection.fileno()
        once = select.EPOLLOUT | select.EPOLLONESHOT
        waiter = self._waiters[number] = _Waiter(connection, on_ready, self._loop.create_future())
        try:
            self._epoll.modify(number, once)
        except FileNotFoundError:  # its first time; the kernel forgets a socket that is closed
            self._epoll.register(number, once)
        return waiter.turn

    def next_turn(self) -> "asyncio.Future[None]":
        """Returns a future that is done when the caller may continue: at once, unless many have in this round."""
        waiter = self._loop.create_future()
        self._enqueue(waiter)
        return waiter

    def _wake(self) -> None:
        for number, _ in self._epoll.poll(0):
            waiter = self._waiters.pop(number)
            if waiter.turn.done():
                continue  # cancelled: its sender has released its quota
            if waiter.on_ready and waiter.connection.fileno() == number:
                waiter.on_ready(waiter.connection)
            self._enqueue(waiter.turn)

    def _enqueue(self, waiter: "asyncio.Future[None]") -> None:
        self._queue.append(waiter)
        if not self._round_ends:
            self._schedule_end_of_round()
        self._grant()

    def _grant(self) -> None:
        while self._queue and self._turns_left:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._turns_left -= 1

    def _schedule_end_of_round(self) -> None:
        self._round_ends = True
        self._loop.call_soon(self._end_round)

    def _end_round(self) -> None:
        self._round_ends = False
        self._turns_left = TURNS_PER_ROUND
        if self._queue:
            self._schedule_end_of_round()
            self._grant()


WRITE_READINESS = web.AppKey("write readiness", WriteReadiness)


def queued_bytes(connection: socket.socket) -> int:
    """Returns the bytes of memory that the kernel keeps for data that the client has not acknowledged."""
    return _memory_of(connection)[1]


def writable_bytes(connection: socket.socket) -> int:
    """Returns how many bytes the socket takes at once; 0 while epoll does not call it writable."""
    size, queued = _memory_of(connection)
    return (size - queued) * 2 // 3 if size >= buffer_writable_below(queued) else 0


def buffer_holding(size: int) -> int:
    """Returns the size of a send buffer that takes `size` bytes at once.

    The kernel counts some 800 bytes of overhead for each segment, and its segments have 2 kB if the client's window is
    small.
    """
    return -(-size * 3 // 2)


def _memory_of(connection: socket.socket) -> tuple[int, int]:
    """Returns the size of the send buffer, and how much of it is in use."""
    size, queued = MEMINFO.unpack(connection.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))
    return size, queued


def buffer_writable_below(queued: int) -> int:
    """Returns the size of a send buffer that epoll calls writable at `queued` bytes (sk_stream_is_writeable)."""
    return queued * 3 // 2


def set_send_buffer(connection: socket.socket, size: int) -> None:
    """Lets about `size` bytes be queued from now on. The kernel doubles the value it is given (socket(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)


async def wait_drained(request: web.Request) -> None:
    """Returns when the client has taken nearly all that was sent to it, or can no longer be sent anything."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if queued_bytes(connection) > MIN_QUOTA // 2:
            set_send_buffer(connection, buffer_writable_below(MIN_QUOTA // 2))
            await request.app[WRITE_READINESS].wait(connection)


@web.middleware
async def backpressure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A client that sends requests without reading the answers waits for its next answer until it has read them."""
    await wait_drained(request)
    return await handler(request)
