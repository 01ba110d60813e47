"""A relay between a client and a server, for the faults that lie between them.

What the server does at the end is passed on as it is: a close as a close, a reset as a reset.
"""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from tests.proxy import abandon

LINGER_AND_RESET = struct.pack("ii", 1, 0)
PIECE = 64 * 1024  # bytes
SILENCE = 60.0  # seconds: longer than anybody waits here


class Relay:
    """Carries `allowance` bytes of each answer, and then what `spent` makes of the rest."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname, parts.port

    def allowance(self) -> int | None:
        """Bytes for the next connection; None for all there are."""
        return None

    async def spent(self) -> bool:
        """Whether the connection may go on."""
        return True

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await self._connect()
        except OSError:
            _reset(writer)
            return
        asking = asyncio.create_task(_carry(reader, upstream_writer))
        try:
            await self._answer(upstream_reader, writer)
        except ConnectionError:
            _reset(writer)
        finally:
            writer.close()
            _reset(upstream_writer)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """With a small buffer: what the relay does not read stays with the server."""
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._upstream)
        except BaseException:
            connection.close()
            raise
        return await asyncio.open_connection(sock=connection)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        allowance = self.allowance()
        if allowance is not None and await _carry(reader, writer, allowance) and not await self.spent():
            raise ConnectionResetError
        await _carry(reader, writer)


class ClosingRelay(Relay):
    """Makes a close of every reset, as the relay does by which Docker publishes a port."""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await super()._answer(reader, writer)


class BreakingRelay(Relay):
    """Resets each of the first `breaks` connections after `least` to `most` bytes of the answer."""

    def __init__(self, upstream: str, chance: random.Random, breaks: int, least: int, most: int) -> None:
        super().__init__(upstream)
        self._chance = chance
        self._limits = least, most
        self.breaks = breaks  # still to come

    def allowance(self) -> int | None:
        if not self.breaks:
            return None
        self.breaks -= 1
        return self._chance.randint(*self._limits)

    async def spent(self) -> bool:
        return False


class StallingRelay(Relay):
    """Holds every answer after `bytes_first` bytes, until it is released."""

    def __init__(self, upstream: str, bytes_first: int) -> None:
        super().__init__(upstream)
        self._bytes_first = bytes_first
        self._released = asyncio.Event()

    def allowance(self) -> int | None:
        return self._bytes_first

    async def spent(self) -> bool:
        return await self._released.wait()

    def release(self) -> None:
        self._released.set()


class FaultyRelay(Relay):
    """Does to each connection what the lot says, for the first `faults` connections: nothing is reordered or changed.

    A connection is cut (FIN) or reset after so many bytes of answers, or falls silent for good; before any answer, in
    its head, between two chunks, within one, wherever that is. Each, also one without a fault, comes in pieces of any
    size.
    """

    def __init__(self, upstream: str, chance: random.Random, faults: int, most: int) -> None:
        super().__init__(upstream)
        self._chance = chance
        self._most = most
        self.faults = faults  # still to come
        self.happened = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._draw()
        allowance = None if fault is None else self._draw_allowance()
        if not await self._trickle(reader, writer, allowance):
            return
        self.happened += 1
        if fault == "silent":
            await asyncio.sleep(SILENCE)
        elif fault == "cut":
            writer.write_eof()
        else:
            raise ConnectionResetError

    def _draw(self) -> str | None:
        if not self.faults:
            return None
        self.faults -= 1
        return self._chance.choice(("cut", "cut", "reset", "reset", "silent"))

    def _draw_allowance(self) -> int:
        """Bytes: none, a few of the head, or any number of the body."""
        return self._chance.choice(
            (0, self._chance.randrange(1, 2500), *self._chance.choices(range(2500, self._most), k=3))
        )

    async def _trickle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowance: int | None) -> bool:
        """Whether the allowance was spent."""
        largest = self._chance.choice((PIECE, PIECE, 5000, 700))
        writer.transport.set_write_buffer_limits(0)
        while allowance is None or allowance:
            piece = await reader.read(
                self._chance.randint(1, largest if allowance is None else min(largest, allowance))
            )
            if not piece:
                return False
            writer.write(piece)
            await writer.drain()
            allowance = None if allowance is None else allowance - len(piece)
        return True


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowance: int | None = None) -> bool:
    """Whether the allowance was spent; False at the end of the stream."""
    writer.transport.set_write_buffer_limits(0)  # what is carried has left, even if the connection is reset next
    while piece := await reader.read(PIECE if allowance is None else min(allowance, PIECE)):
        writer.write(piece)
        await writer.drain()
        if allowance is not None:
            allowance -= len(piece)
            if not allowance:
                return True
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
    writer.transport.abort()


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[str]:
    """The URL that stands for the server's. Leaving drops the connections that are left."""
    connections: list[asyncio.Task[None]] = []
    leaving = False

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if leaving:
            writer.transport.abort()
            return
        connections.append(asyncio.create_task(relay.relay(reader, writer)))
        connections[-1].add_done_callback(lambda _: abandon(writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        leaving = True
        for connection in connections:
            connection.cancel()
        ends = await asyncio.gather(*connections, return_exceptions=True)
    assert not [end for end in ends if isinstance(end, Exception)]
