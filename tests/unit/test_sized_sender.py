"""Bodies of known length: which algorithm sends them, how sendfile adapts to the client, and how a break looks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from streamer.http.download.delivery import DownloadResponse
from streamer.http.net.send_buffers import MAX_UNLIMITED
from streamer.http.net.sized_sender import FAST, MAX_PIECE, MIN_PIECE, SLOW, CopyingSender, SendfileSender, sized_sender
from streamer.spool.follower import Extent
from tests.rawhttp import Body, End
from tests.unit.bodies import BodyServer, Source, body_server

HEAD = b"in memory, before the file\r\n"
CONTENT = b"".join(b"%015d\n" % number for number in range(1024 * 1024))  # 16 MB


@dataclass
class Served:
    server: BodyServer
    senders: list[type]

    def body(self) -> AbstractAsyncContextManager[Body]:
        return self.server.body(receive=64 * 1024)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server that sends the head from memory and the content from a file."""
    path, senders = tmp_path / "content", list[type]()
    path.write_bytes(CONTENT)

    async def send(request: web.Request, response: DownloadResponse, source: Source) -> None:
        response.content_length = len(HEAD) + len(CONTENT)
        await response.begin(request)
        with sized_sender(request, source) as sender:
            senders.append(type(sender))
            await sender.write(HEAD)
            await sender.send(Extent(0, len(CONTENT)))

    async with body_server(path, send) as server:
        yield Served(server, senders)


async def test_first_downloads_are_sent_by_sendfile_and_all_others_are_copied(served: Served) -> None:
    async with AsyncExitStack() as stack:
        bodies = [await stack.enter_async_context(served.body()) for _ in range(MAX_UNLIMITED + 2)]
        assert served.senders == [SendfileSender] * MAX_UNLIMITED + [CopyingSender] * 2
        for body in bodies:
            assert await body.whole() == HEAD + CONTENT


@pytest.mark.parametrize("others", [0, MAX_UNLIMITED], ids=["sendfile", "copying"])
async def test_break_of_the_source_resets_the_connection(served: Served, others: int) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(others):
            await stack.enter_async_context(served.body())
        body = await stack.enter_async_context(served.body())
        served.server.source.broken.set_result("broken")
        assert await body.finish() is End.RESET
    assert len(body.received) < len(HEAD + CONTENT)
    assert (HEAD + CONTENT).startswith(bytes(body.received))


async def test_sendfile_sends_small_pieces_to_a_slow_client_and_large_ones_to_a_fast_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
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
    async with served.body() as body:
        assert await body.whole() == HEAD + CONTENT
    halves = [MAX_PIECE, MAX_PIECE // 2, MAX_PIECE // 4, MAX_PIECE // 8, MIN_PIECE]
    assert lengths[:9] == [MAX_PIECE, *halves, MIN_PIECE, 2 * MIN_PIECE, 2 * MIN_PIECE]
