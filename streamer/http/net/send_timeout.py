"""Disconnects clients that have stopped reading.

TCP itself never ends a connection because its client takes no byte. TCP_USER_TIMEOUT comes near, but its clock keeps
running while a slow client takes a little at a time. So every connection is checked at intervals: while data is queued
for its client, any byte that the client's kernel has acknowledged since the last check counts as progress.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from streamer.http.net.readiness import queued_bytes

CHECKS_PER_TIMEOUT = 4
MAX_CHECK_INTERVAL = 5.0  # seconds
MIN_CHECK_INTERVAL = 0.01  # seconds
GROUP = 256  # connections checked before the event loop gets a turn
# tcpi_bytes_acked of struct tcp_info in linux/tcp.h (RFC 4898, tcpEStatsAppHCThruOctetsAcked)
BYTES_ACKED = struct.Struct("=120xQ")


@dataclass(slots=True)
class _Progress:
    acknowledged: int  # bytes
    since: float  # on the clock of the event loop


class SendTimeout:
    """Breaks a connection whose client has acknowledged nothing for `timeout` seconds while data is queued for it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._watched: dict[asyncio.Transport, _Progress] = {}

    def add(self, transport: asyncio.Transport) -> None:
        self._watched[transport] = _Progress(0, asyncio.get_running_loop().time())

    def remove(self, transport: asyncio.Transport) -> None:
        self._watched.pop(transport, None)

    async def run(self) -> None:
        """Checks the connections until it is cancelled."""
        while True:
            await asyncio.sleep(max(MIN_CHECK_INTERVAL, min(self._timeout / CHECKS_PER_TIMEOUT, MAX_CHECK_INTERVAL)))
            for number, (transport, progress) in enumerate(list(self._watched.items()), 1):
                with suppress(OSError):  # the connection has been reset
                    self._check(transport, progress)
                if not number % GROUP:
                    await asyncio.sleep(0)

    def _check(self, transport: asyncio.Transport, progress: _Progress) -> None:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is None or connection.fileno() < 0:
            return
        now = asyncio.get_running_loop().time()
        acknowledged = _bytes_acknowledged(connection)
        queued = queued_bytes(connection) or transport.get_write_buffer_size()
        if acknowledged != progress.acknowledged or not queued:
            progress.acknowledged, progress.since = acknowledged, now
        elif now - progress.since >= self._timeout:
            # Not closed here: a transport that is closed during a sendfile leaves its descriptor in the selector. The
            # next write fails, and its sender breaks the connection.
            connection.shutdown(socket.SHUT_WR)


def _bytes_acknowledged(connection: socket.socket) -> int:
    """Returns the bytes that the client's kernel has acknowledged since the connection was opened."""
    found: int = BYTES_ACKED.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED.size))[0]
    return found
