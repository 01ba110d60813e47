"""Clients that have stopped reading.

Nothing in TCP ends a connection whose client takes no byte any more: TCP_USER_TIMEOUT comes near, but goes on counting
while a slow client takes a little at a time. So every connection is looked at from time to time. While something waits
for its client, what the client's kernel has acknowledged since the last look counts as taken, be it one byte.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from streamer.http.net.readiness import queued_bytes

CHECKS_PER_TIMEOUT = 4  # in one timeout
MAX_CHECK_INTERVAL = 5.0  # seconds, at most
MIN_CHECK_INTERVAL = 0.01  # seconds
GROUP = 256  # connections looked at in one turn of the loop
# tcpi_bytes_acked of struct tcp_info in linux/tcp.h (RFC 4898, tcpEStatsAppHCThruOctetsAcked)
BYTES_ACKED = struct.Struct("=120xQ")


@dataclass(slots=True)
class _Observed:
    taken: int  # bytes
    since: float  # by the loop's clock


class SendTimeout:
    """Breaks the connections whose clients have taken nothing for `timeout` seconds of what waits for them."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._watched: dict[asyncio.Transport, _Observed] = {}

    def add(self, transport: asyncio.Transport) -> None:
        self._watched[transport] = _Observed(0, asyncio.get_running_loop().time())

    def remove(self, transport: asyncio.Transport) -> None:
        self._watched.pop(transport, None)

    async def run(self) -> None:
        """Looks at them for ever."""
        while True:
            await asyncio.sleep(max(MIN_CHECK_INTERVAL, min(self._timeout / CHECKS_PER_TIMEOUT, MAX_CHECK_INTERVAL)))
            for number, (transport, seen) in enumerate(list(self._watched.items()), 1):
                with suppress(OSError):  # the connection has been reset
                    self._look(transport, seen)
                if not number % GROUP:
                    await asyncio.sleep(0)

    def _look(self, transport: asyncio.Transport, seen: _Observed) -> None:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is None or connection.fileno() < 0:
            return
        now = asyncio.get_running_loop().time()
        taken = _acknowledged(connection)
        if taken != seen.taken or not (queued_bytes(connection) or transport.get_write_buffer_size()):
            seen.taken, seen.since = taken, now
        elif now - seen.since >= self._timeout:
            # Not closed here: a transport that is closed under a sendfile leaves its descriptor in the selector. The
            # next write fails, and whoever writes breaks the connection.
            connection.shutdown(socket.SHUT_WR)


def _acknowledged(connection: socket.socket) -> int:
    """Bytes that the client's kernel has acknowledged since the connection began."""
    found: int = BYTES_ACKED.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED.size))[0]
    return found
