"""The downloads that there may be at once, and each one's share of what may wait in the kernel for its client.

What a client has not taken yet waits in its socket, and a container pays for that as for any other memory. Left alone a
socket takes megabytes. A few fast clients may have that; when there are many, each gets its share of `UNSENT`
(TCP_NOTSENT_LOWAT, tcp(7)).
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamer.errors import Unavailable

UNSENT = 16 * 1024 * 1024  # bytes of all clients together
LEAST_SHARE = 16 * 1024
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Python has no name for it before 3.12
RETRY_AFTER = 5  # seconds


class Places:
    """At most `capacity` downloads at once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises Unavailable."""
        if self._taken >= self._capacity:
            raise Unavailable("too many downloads at once", retry_after=RETRY_AFTER)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @property
    def share(self) -> int:
        """Bytes that may wait in one client's socket: a power of two, so that it does not change with every client."""
        return max(LEAST_SHARE, 1 << (UNSENT // max(1, self._taken)).bit_length() - 1)


def let_wait(connection: socket.socket, size: int) -> None:
    """From now on at most about `size` bytes are taken from us before the client takes some."""
    connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)


PLACES = web.AppKey("places", Places)
