"""Room in the sockets: nothing is given to a client that has not taken enough of what it was given before.

A small send buffer alone is not small: the kernel fills up the segment that it has begun, up to 64 kB, before it says
that there is no room. So the kernel is asked first how much it holds, and woken by (epoll(7)) when the client has taken
enough of it. A transport could not say that: it can only be given more.
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

MIN_QUOTA = 8 * 1024  # bytes that may wait in any connection
TURNS_PER_ROUND = 16  # in one round of the event loop
SO_MEMINFO = 55  # asm-generic/socket.h, Linux 4.12
MEMINFO = struct.Struct("=12xI4xI12x")  # SK_MEMINFO_SNDBUF and SK_MEMINFO_WMEM_QUEUED of linux/sock_diag.h

ReadyCallback = Callable[[socket.socket], None]


class _Waiter(NamedTuple):
    connection: socket.socket
    look: ReadyCallback | None
    turn: "asyncio.Future[None]"


class WriteReadiness:
    """In the sockets of one event loop, and whose turn it is.

    A few may go on in each round of the loop, and the others stand in one queue: nobody else waits until a thousand
    pieces have been sent. What their clients have taken is looked at as soon as epoll tells of it, before anybody is
    given more: what is counted as held has not been gone for long.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiters: dict[int, _Waiter] = {}
        self._queue: deque[asyncio.Future[None]] = deque()
        self._left = TURNS_PER_ROUND  # in this round
        self._ending = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._wake)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def wait(self, connection: socket.socket, look: ReadyCallback | None = None) -> "asyncio.Future[None]":
        """Done when there is room in the socket again, or nothing can be written to it any more.

        `look` is called with it as soon as that is known.
        """
        number = connection.fileno()
        once = select.EPOLLOUT | select.EPOLLONESHOT
        waiter = self._waiters[number] = _Waiter(connection, look, self._loop.create_future())
        try:
            self._epoll.modify(number, once)
        except FileNotFoundError:  # its first time; a socket that is closed is forgotten by the kernel
            self._epoll.register(number, once)
        return waiter.turn

    def next_turn(self) -> "asyncio.Future[None]":
        """Done when it is the caller's turn: at once, if few have been let go in this round."""
        waiter = self._loop.create_future()
        self._enqueue(waiter)
        return waiter

    def _wake(self) -> None:
        for number, _ in self._epoll.poll(0):
            waiter = self._waiters.pop(number)
            if waiter.turn.done():
                continue  # whoever waited has gone, and holds nothing any more
            if waiter.look and waiter.connection.fileno() == number:
                waiter.look(waiter.connection)
            self._enqueue(waiter.turn)

    def _enqueue(self, waiter: "asyncio.Future[None]") -> None:
        self._queue.append(waiter)
        if not self._ending:
            self._arrange_end()
        self._grant()

    def _grant(self) -> None:
        while self._queue and self._left:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._left -= 1

    def _arrange_end(self) -> None:
        self._ending = True
        self._loop.call_soon(self._end_round)

    def _end_round(self) -> None:
        self._ending = False
        self._left = TURNS_PER_ROUND
        if self._queue:
            self._arrange_end()
            self._grant()


WRITE_READINESS = web.AppKey("room", WriteReadiness)


def queued_bytes(connection: socket.socket) -> int:
    """Bytes of memory that the kernel keeps until the client has acknowledged what is in them."""
    return _memory_of(connection)[1]


def writable_bytes(connection: socket.socket) -> int:
    """Bytes that the socket takes at once; 0 while epoll does not call it writable."""
    size, held = _memory_of(connection)
    return (size - held) * 2 // 3 if size >= buffer_writable_below(held) else 0


def buffer_holding(size: int) -> int:
    """The size of a buffer that takes so many bytes at once.

    For each segment the kernel counts some 800 bytes beside those that are in it, and to a client with a small window
    it makes segments of 2 kB.
    """
    return -(-size * 3 // 2)


def _memory_of(connection: socket.socket) -> tuple[int, int]:
    """The size of its send buffer, and how much of that is in use."""
    size, held = MEMINFO.unpack(connection.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))
    return size, held


def buffer_writable_below(held: int) -> int:
    """The size of the buffer that epoll calls writable when it holds so much, in bytes (sk_stream_is_writeable)."""
    return held * 3 // 2


def set_send_buffer(connection: socket.socket, size: int) -> None:
    """From now on about `size` bytes may wait for the client; the kernel doubles what it is told (socket(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)


async def wait_drained(request: web.Request) -> None:
    """Returns when the client has taken nearly all that was written to it so far, or cannot be written to any more."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if queued_bytes(connection) > MIN_QUOTA // 2:
            set_send_buffer(connection, buffer_writable_below(MIN_QUOTA // 2))
            await request.app[WRITE_READINESS].wait(connection)


@web.middleware
async def backpressure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who sends one request after the other and reads no answer waits with the next until it has."""
    await wait_drained(request)
    return await handler(request)
