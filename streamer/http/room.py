"""Room in the sockets: nothing is given to a client that has not taken enough of what it was given before.

A small send buffer alone is not small: the kernel fills up the segment that it has begun, up to 64 kB, before it says
that there is no room. So the kernel is asked first how much it holds, and woken by (epoll(7)) when the client has taken
a third of it. A transport could not say that: it can only be given more.
"""

import asyncio
import fcntl
import select
import socket
import struct
import termios
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from streamer.http.places import LEAST_SHARE, limit_waiting

WAITING = struct.Struct("=i")


class Room:
    """In the sockets of one event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiters: dict[int, asyncio.Future[None]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._wake)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()

    async def found(self, connection: socket.socket) -> None:
        """Returns when there is room in the socket again, or nothing can be written to it any more."""
        number = connection.fileno()
        waiter = self._waiters[number] = asyncio.get_running_loop().create_future()
        try:
            self._epoll.register(number, select.EPOLLOUT | select.EPOLLONESHOT)
            await waiter
        finally:
            if self._waiters.get(number) is waiter:  # its number may be another socket's by now
                del self._waiters[number]
                with suppress(OSError):
                    self._epoll.unregister(number)

    def _wake(self) -> None:
        for number, _ in self._epoll.poll(0):
            waiter = self._waiters.get(number)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)


ROOM = web.AppKey("room", Room)


def waiting_in(connection: socket.socket) -> int:
    """Bytes that the kernel holds until the client has acknowledged them (SIOCOUTQ, tcp(7))."""
    found: int = WAITING.unpack(fcntl.ioctl(connection, termios.TIOCOUTQ, WAITING.pack(0)))[0]
    return found


def is_full(connection: socket.socket, size: int) -> bool:
    """Whether more waits than epoll calls writable: two thirds of a buffer of `size` bytes (sk_stream_is_writeable)."""
    return 3 * waiting_in(connection) > 2 * size


async def until_taken(request: web.Request) -> None:
    """Returns when the client has taken nearly all that was written to it so far, or cannot be written to any more."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if is_full(connection, LEAST_SHARE):
            limit_waiting(connection, LEAST_SHARE)
            await request.app[ROOM].found(connection)


@web.middleware
async def in_turn(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who sends one request after the other and reads no answer waits with the next until it has."""
    await until_taken(request)
    return await handler(request)
