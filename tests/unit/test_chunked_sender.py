"""A chunked body: its framing, and a socket that takes less than it reported."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from streamer.http.download.delivery import DownloadResponse
from streamer.http.net.chunked_sender import Chunk, ChunkedSender, Read
from streamer.http.net.send_buffers import MAX_UNLIMITED
from streamer.spool.follower import Extent
from tests.polling import PATIENCE
from tests.rawhttp import Body, End
from tests.unit.bodies import BodyServer, Source, body_server

CONTENT = b"".join(b"%09d\n" % number for number in range(100_000))  # 1 MB
TINY = 512  # bytes of a receive buffer: segments are then so short that the kernel needs more for their overhead


def test_rest_of_a_chunk_is_what_has_not_been_sent() -> None:
    body = b"0123456789abcdef0123"
    whole = b"14\r\n" + body + b"\r\n"
    for sent in range(len(whole) + 1):
        for more in range(len(whole) - sent + 1):
            left = Chunk.of(Extent(0, len(body))).after(sent).after(more)
            part = body[left.body.offset : left.body.offset + left.body.length]
            assert left.head + part + left.tail == whole[sent + more :]
            assert left.length == len(whole) - sent - more


@dataclass
class Sent:
    """What the senders of a server did."""

    partly: int = 0  # chunks that a socket took in part
    lingers: list[int] = field(
        default_factory=list
    )  # whether a close would reset: before, during and after such chunks
    waiting: asyncio.Event = field(default_factory=asyncio.Event)


class Watched(ChunkedSender):
    """Records the chunks that were written in part."""

    sent: Sent

    async def _finish(self, chunk: Chunk, read: Read) -> None:
        self.sent.partly += 1
        before = self._resets
        finishing = asyncio.create_task(super()._finish(chunk, read))
        await asyncio.sleep(0)
        within = self._resets
        self.sent.waiting.set()
        try:
            await asyncio.shield(finishing)
        except asyncio.CancelledError:
            finishing.cancel()
            raise
        self.sent.lingers += [before, within, self._resets]

    @property
    def _resets(self) -> int:
        found: int = struct.unpack("ii", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]
        return found


@dataclass
class Served:
    server: BodyServer
    sent: Sent

    def body(self, target: str = "/") -> AbstractAsyncContextManager[Body]:
        return self.server.body(target, receive=TINY)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server that sends the content once from a file and once from memory, with small send buffers."""
    path, sent = tmp_path / "content", Sent()
    path.write_bytes(CONTENT)

    async def send(request: web.Request, response: DownloadResponse, source: Source) -> None:
        response.enable_chunked_encoding()
        await response.begin(request)
        with Watched(request, source) as sender:
            sender.sent = sent if request.path == "/" else Sent()
            await sender.send(Extent(0, len(CONTENT)))
            await sender.write(CONTENT)

    async with body_server(path, send) as server, AsyncExitStack() as others:
        found = Served(server, sent)
        for _ in range(MAX_UNLIMITED):
            await others.enter_async_context(found.body("/other"))
        yield found


async def test_chunk_written_in_part_is_completed(served: Served) -> None:
    """Until then the death of the process would reset the connection, and not afterwards."""
    async with served.body() as body:
        assert await body.whole() == CONTENT + CONTENT
    assert served.sent.partly > 0
    assert served.sent.lingers == [0, 1, 0] * served.sent.partly


async def test_break_waits_until_a_chunk_written_in_part_is_completed(served: Served) -> None:
    async with served.body() as body:
        await asyncio.wait_for(served.sent.waiting.wait(), PATIENCE)
        served.server.source.broken.set_result("broken")
        assert await body.finish() is End.CLOSED
    assert 0 < len(body.received) < len(CONTENT)
    assert CONTENT.startswith(body.received)
    assert served.sent.lingers == [0, 1, 0]
