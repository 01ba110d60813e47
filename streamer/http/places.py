"""The downloads that there may be at once, and each one's share of what may wait in the kernel for its client.

What a client has not taken yet waits in its socket, and a container pays for that as for any other memory. Left alone a
socket takes megabytes. The first clients may have that; each that comes to a crowd gets an ever smaller send buffer, so
that all of them together stay within a few megabytes however long they stop.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamer.errors import Unavailable

POOL = 2 * 1024 * 1024  # bytes: the n-th client has the n-th part of it
LEAST_SHARE = 8 * 1024
ROOMY = 1024 * 1024  # a share of so much is left to the kernel, which adapts it to the network
RETRY_AFTER = 5  # seconds
IN_A_CROWD = web.RequestKey("in a crowd", bool)


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
            raise Unavailable("too many downloads at once", retry_after=RETRY_AFTER)
        self._taken += 1
        self._empty.clear()
        share = max(LEAST_SHARE, POOL // self._taken)
        request[IN_A_CROWD] = share < ROOMY
        try:
            if request[IN_A_CROWD] and request.transport is not None:
                # The kernel doubles what it is told (socket(7)).
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, share // 2)
            yield
        finally:
            self._taken -= 1
            if not self._taken:
                self._empty.set()

    async def empty(self) -> None:
        """Returns when there is no download."""
        await self._empty.wait()


def most_waiting(capacity: int, roomy: int) -> int:
    """Bytes that can wait in the sockets of `capacity` clients, where a roomy one has `roomy`."""
    shares = (max(LEAST_SHARE, POOL // number) for number in range(1, capacity + 1))
    return sum(roomy if share >= ROOMY else share for share in shares)
