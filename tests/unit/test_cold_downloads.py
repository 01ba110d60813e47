"""Downloads that wait together for the disk: what they write when it has come is within the budget of all of them."""

import asyncio
import os
import threading
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web

from streamer.http.download.delivery import DownloadResponse
from streamer.http.net.chunked_sender import ChunkedSender
from streamer.http.net.send_buffers import BUDGET, MAX_QUOTA, MAX_UNLIMITED
from streamer.http.net.sized_sender import sized_sender
from streamer.spool.follower import Extent
from streamer.spool.pagecache import is_cached
from tests.unit.bodies import Source, body_server

CLIENTS = 60  # with the largest quota each they would hold more than twice the budget
APART = 1024 * 1024  # bytes between the places where they begin: a read loads what follows it, too
BODY = 16 * 1024 * 1024  # bytes: more than a socket takes whose buffer the kernel sizes
SIZE = (MAX_UNLIMITED + CLIENTS) * APART + BODY
TINY = 8 * 1024  # bytes of a receive buffer
assert CLIENTS * MAX_QUOTA > 2 * BUDGET


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file that is on the disk only."""
    path = tmp_path / "content"
    with path.open("w+b") as file:
        for _ in range(SIZE // APART):
            file.write(bytes(APART))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if is_cached(file.fileno(), 0, SIZE):
            pytest.skip("this file system keeps dropped pages")
    return path


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
async def test_downloads_that_were_loaded_together_share_the_budget(cold: Path, chunked: bool) -> None:
    places = count(step=APART)

    async def send(request: web.Request, response: DownloadResponse, source: Source) -> None:
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = BODY
        await response.begin(request)
        with ChunkedSender(request, source) if chunked else sized_sender(request, source) as sender:
            await sender.send(Extent(next(places), BODY))

    disk = threading.Event()
    async with body_server(cold, send) as server, AsyncExitStack() as clients:
        server.threads.submit(disk.wait)  # until then nothing is loaded
        try:
            bodies = [
                await clients.enter_async_context(server.body(receive=TINY)) for _ in range(MAX_UNLIMITED + CLIENTS)
            ]
        finally:
            disk.set()
        await asyncio.gather(*(body.grow_to(1) for body in bodies))
        assert server.slots.free_budget > -MAX_QUOTA
