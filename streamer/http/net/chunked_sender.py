"""A body in chunks on its connection: whenever that ends, it ends between two of them.

GNU wget takes a connection that is closed (FIN) within a chunk for the end of the body. A reset it understands, but a
TCP relay, such as the one by which Docker publishes a port, makes a FIN of it. So what is in a socket must end with a
whole chunk at every moment, that of `kill -9` included: a chunk is only as large as what the socket takes at once, and
its head, its bytes and its line end go there in one system call, out of the page cache through the one buffer. Then a
break is a FIN without the final chunk, which every client sees, also behind relays.

A socket may still take less than it had room for. What is left then goes on, break or no break, and until it is sent
anything that ends the connection resets it, the death of the process included.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from streamer.http.net.body_sender import BodySender
from streamer.http.net.resets import whole_or_reset
from streamer.spool.follower import Extent

Read = Callable[[Extent, int], Awaitable[memoryview]]
"""Gives the first bytes of an extent, so many; what it gives is valid until anything else is awaited."""


class Chunk(NamedTuple):
    """What is still to be sent of one: RFC 9112, 7.1."""

    head: bytes
    body: Extent
    tail: bytes = b"\r\n"

    @classmethod
    def of(cls, body: Extent) -> "Chunk":
        return cls(b"%x\r\n" % body.length, body)

    @property
    def length(self) -> int:
        return len(self.head) + self.body.length + len(self.tail)

    def after(self, sent: int) -> "Chunk":
        of_head = min(sent, len(self.head))
        of_body = min(sent - of_head, self.body.length)
        return Chunk(self.head[of_head:], self.body.after(of_body), self.tail[sent - of_head - of_body :])


class ChunkedSender(BodySender):
    """Sends everything but the final chunk, which is aiohttp's."""

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        if isinstance(exc_info[1], ConnectionError | TimeoutError):
            self._reset()  # what waits in the socket is for nobody

    async def send(self, extent: Extent) -> None:
        """Sends all of the extent."""
        await self._send_chunks(extent, self._read)

    async def write(self, piece: bytes) -> None:
        """Sends bytes that are in memory."""
        await self._send_chunks(Extent(0, len(piece)), partial(_read_from, memoryview(piece)))

    async def _send_chunks(self, extent: Extent, read: Read) -> None:
        await self._wait_flushed()
        while extent.length:
            extent = extent.after(await self._send_chunk(extent, read))

    async def _send_chunk(self, extent: Extent, read: Read) -> int:
        """Sends some of its first bytes as a chunk, or none, and returns how many."""
        chunk = Chunk.of(extent.first(await self._wait_writable()))
        sent = self._write([chunk.head, await read(extent, chunk.body.length), chunk.tail])
        if 0 < sent < chunk.length:
            await self._finish(chunk.after(sent), read)
        await self._pace(sent)
        return chunk.body.length if sent else 0

    async def _finish(self, chunk: Chunk, read: Read) -> None:
        with whole_or_reset(self._transport):
            while chunk.length:
                await self._readiness.wait(self._socket, self._on_ready)
                rest = await read(chunk.body, chunk.body.length)
                chunk = chunk.after(self._write([chunk.head, rest, chunk.tail]))


async def _read_from(piece: memoryview, extent: Extent, length: int) -> memoryview:
    return piece[extent.offset : extent.offset + length]
