"""Bodies of known length: which algorithm sends them, how sendfile adapts to the client, and how a break looks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from aiohttp import web

from streamer.http.download.delivery import DownloadResponse
from streamer.http.net.body_sender import READ_AHEAD
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import WRITE_READINESS, WriteReadiness
from streamer.http.net.send_buffers import MAX_UNLIMITED
from streamer.http.net.sized_sender import FAST, MAX_PIECE, MIN_PIECE, SLOW, CopyingSender, SendfileSender, sized_sender
from streamer.spool.follower import Extent
from tests.rawhttp import Body, End, connection

HEAD = b"in memory, before the file\r\n"
CONTENT = b"".join(b"%015d\n" % number for number in range(1024 * 1024))  # 16 MB


@dataclass
class Source:
    """A file that may break."""

    file: BinaryIO
    broken: "asyncio.Future[str]"


@dataclass
class Server:
    url: str
    source: Source
    senders: list[type] = field(default_factory=list)

    @asynccontextmanager
    async def body(self, target: str = "/") -> AsyncIterator[Body]:
        async with connection(self.url, receive=64 * 1024) as client:
            await client.send("GET", target)
            yield (await client.begin())[1]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Sends the head from memory and the content from a file."""
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    readiness, slots = WriteReadiness(), DownloadSlots(10)
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as threads:
        source = Source(file, asyncio.get_running_loop().create_future())

        async def send(request: web.Request) -> web.StreamResponse:
            response = DownloadResponse()
            response.content_length = len(HEAD) + len(CONTENT)
            with slots.acquire(request), response.body():
                await response.begin(request)
                with sized_sender(request, source) as sender:
                    started.senders.append(type(sender))
                    await sender.write(HEAD)
                    await sender.send(Extent(0, len(CONTENT)))
            return response

        app = web.Application()
        app[READ_AHEAD], app[WRITE_READINESS] = threads, readiness
        app.router.add_get("/", send)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        started = Server(f"http://127.0.0.1:{runner.addresses[0][1]}", source)
        yield started
        await runner.cleanup()
    readiness.close()


async def test_first_downloads_are_sent_by_sendfile_and_all_others_are_copied(server: Server) -> None:
    async with AsyncExitStack() as stack:
        bodies = [await stack.enter_async_context(server.body()) for _ in range(MAX_UNLIMITED + 2)]
        assert server.senders == [SendfileSender] * MAX_UNLIMITED + [CopyingSender] * 2
        for body in bodies:
            assert await body.whole() == HEAD + CONTENT


@pytest.mark.parametrize("others", [0, MAX_UNLIMITED], ids=["sendfile", "copying"])
async def test_break_of_the_source_resets_the_connection(server: Server, others: int) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(others):
            await stack.enter_async_context(server.body())
        body = await stack.enter_async_context(server.body())
        server.source.broken.set_result("broken")
        assert await body.finish() is End.CUT
    assert len(body.received) < len(HEAD + CONTENT)
    assert (HEAD + CONTENT).startswith(bytes(body.received))


async def test_sendfile_sends_small_pieces_to_a_slow_client_and_large_ones_to_a_fast_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    lengths: list[int] = []
    seconds = iter([FAST / 2, *[SLOW * 1.1] * 5, FAST / 2, (SLOW + FAST) / 2])
    clock = loop.time
    ahead = 0.0

    def taking(sendfile: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(transport: object, file: object, offset: int, length: int) -> int:
            nonlocal ahead
            started = loop.time()
            sent: int = await sendfile(transport, file, offset, length)
            lengths.append(length)
            ahead += next(seconds, FAST / 2) - (loop.time() - started)
            return sent

        return timed

    monkeypatch.setattr(loop, "sendfile", taking(loop.sendfile))
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead)
    async with server.body() as body:
        assert await body.whole() == HEAD + CONTENT
    halves = [MAX_PIECE, MAX_PIECE // 2, MAX_PIECE // 4, MAX_PIECE // 8, MIN_PIECE]
    assert lengths[:9] == [MAX_PIECE, *halves, MIN_PIECE, 2 * MIN_PIECE, 2 * MIN_PIECE]
