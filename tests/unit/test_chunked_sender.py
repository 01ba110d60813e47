"""A chunked body: its framing, and a socket that takes less than it reported."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest
from aiohttp import web

from streamer.http.download.delivery import DownloadResponse
from streamer.http.net.body_sender import READ_AHEAD
from streamer.http.net.chunked_sender import Chunk, ChunkedSender, Read
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import WRITE_READINESS, WriteReadiness
from streamer.http.net.send_buffers import MAX_UNLIMITED
from streamer.spool.follower import Extent
from tests.polling import PATIENCE
from tests.rawhttp import Body, End, connection

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
class Source:
    """A file that may break."""

    file: BinaryIO
    broken: "asyncio.Future[str]"


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
    url: str
    sent: Sent
    source: Source

    @asynccontextmanager
    async def body(self, target: str = "/") -> AsyncIterator[Body]:
        async with connection(self.url, receive=TINY) as client:
            await client.send("GET", target)
            yield (await client.begin())[1]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server that sends the content once from a file and once from memory, with small send buffers."""
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    sent, readiness, slots = Sent(), WriteReadiness(), DownloadSlots(10)
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as threads:
        source = Source(file, asyncio.get_running_loop().create_future())

        async def send(request: web.Request) -> web.StreamResponse:
            response = DownloadResponse()
            response.enable_chunked_encoding()
            with slots.acquire(request), response.body():
                await response.begin(request)
                with Watched(request, source) as sender:
                    sender.sent = sent if request.path == "/" else Sent()
                    await sender.send(Extent(0, len(CONTENT)))
                    await sender.write(CONTENT)
            return response

        app = web.Application()
        app[READ_AHEAD], app[WRITE_READINESS] = threads, readiness
        app.router.add_get("/{other:.*}", send)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found = Served(f"http://127.0.0.1:{runner.addresses[0][1]}", sent, source)
        async with AsyncExitStack() as others:
            for _ in range(MAX_UNLIMITED):
                await others.enter_async_context(found.body("/other"))
            yield found
        await runner.cleanup()
    readiness.close()


async def test_chunk_written_in_part_is_completed(served: Served) -> None:
    """Until then the death of the process would reset the connection, and not afterwards."""
    async with served.body() as body:
        assert await body.whole() == CONTENT + CONTENT
    assert served.sent.partly > 0
    assert served.sent.lingers == [0, 1, 0] * served.sent.partly


async def test_break_waits_until_a_chunk_written_in_part_is_completed(served: Served) -> None:
    async with served.body() as body:
        await asyncio.wait_for(served.sent.waiting.wait(), PATIENCE)
        served.source.broken.set_result("broken")
        assert await body.finish() is End.CLOSED
    assert 0 < len(body.received) < len(CONTENT)
    assert CONTENT.startswith(body.received)
    assert served.sent.lingers == [0, 1, 0]
