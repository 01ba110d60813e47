"""Sends a chunked body so that a connection, whenever it ends, ends between two chunks.

GNU wget takes a connection that is closed (FIN) within a chunk for the end of the body. It recognises a reset, but a
TCP relay, such as the one by which Docker publishes a port, turns a reset into a FIN. So the bytes in a socket must end
with a whole chunk at every moment, also at that of `kill -9`: a chunk is only as large as what the socket takes at
once, and its head, its data and its CRLF are written by one system call. A break is then a FIN without the final
chunk, which every client notices, also behind a relay.

A socket may still take less than it reported. Then the rest of the chunk is sent, whether the source breaks or not, and
until it is sent, anything that ends the connection resets it, the death of the process included.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from streamer.http.net.body_sender import BodySender
from streamer.http.net.resets import whole_or_reset
from streamer.spool.follower import Extent

Read = Callable[[Extent, int], Awaitable[memoryview]]
"""Reads the first bytes of an extent, as many as asked for. The result is valid until anything else is awaited."""


class Chunk(NamedTuple):
    """The part of a chunk that is still to be sent: RFC 9112, 7.1."""

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
        """The part that is left when its first `sent` bytes have been sent."""
        of_head = min(sent, len(self.head))
        of_body = min(sent - of_head, self.body.length)
        return Chunk(self.head[of_head:], self.body.after(of_body), self.tail[sent - of_head - of_body :])


class ChunkedSender(BodySender):
    """Sends all chunks but the final one, which aiohttp sends at the end of the response."""

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        if isinstance(exc_info[1], ConnectionError | TimeoutError):
            self._reset()  # frees the memory of what the client has not taken

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
        """Sends some of its first bytes as one chunk, or none. Returns their number."""
        length = extent.first(await self._wait_writable()).length
        piece = self._within_quota(await read(extent, length))
        chunk = Chunk.of(extent.first(len(piece)))
        sent = self._write([chunk.head, piece, chunk.tail])
        if 0 < sent < chunk.length:
            await self._finish(chunk.after(sent), read)
        await self._pace(sent)
        return chunk.body.length if sent else 0

    async def _finish(self, chunk: Chunk, read: Read) -> None:
        """Sends the rest of a chunk that was written in part."""
        with whole_or_reset(self._transport):
            while chunk.length:
                await self._readiness.wait(self._socket, self._on_ready)
                rest = await read(chunk.body, chunk.body.length)
                chunk = chunk.after(self._write([chunk.head, rest, chunk.tail]))


async def _read_from(piece: memoryview, extent: Extent, length: int) -> memoryview:
    return piece[extent.offset : extent.offset + length]
