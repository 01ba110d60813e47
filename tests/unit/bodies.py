"""A server that sends one body with a body sender, over a real socket and with the parts that a real server has."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from streamer.http.download.delivery import DownloadResponse
from streamer.http.net.body_sender import READ_AHEAD
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import WRITE_READINESS, WriteReadiness
from tests.rawhttp import Body, connection


@dataclass
class Source:
    """A file that may break."""

    file: BinaryIO
    broken: "asyncio.Future[str]"


@dataclass
class BodyServer:
    url: str
    source: Source
    slots: DownloadSlots
    threads: ThreadPoolExecutor  # in which the file is loaded

    @asynccontextmanager
    async def body(self, target: str = "/", *, receive: int) -> AsyncIterator[Body]:
        """A body as a client gets it that has a receive buffer of about `receive` bytes."""
        async with connection(self.url, receive=receive) as client:
            await client.send("GET", target)
            yield (await client.begin())[1]


Send = Callable[[web.Request, DownloadResponse, Source], Awaitable[None]]
"""Sends headers and body of a response, from a source among others."""


@asynccontextmanager
async def body_server(content: Path, send: Send) -> AsyncIterator[BodyServer]:
    """A server whose responses `send` writes, each in a slot of its own."""
    slots = DownloadSlots(100)

    async def respond(request: web.Request) -> web.StreamResponse:
        response = DownloadResponse()
        with slots.acquire(request), response.body():
            await send(request, response, source)
        return response

    with (
        content.open("rb", buffering=0) as file,
        ThreadPoolExecutor(1) as threads,
        closing(WriteReadiness()) as readiness,
    ):
        source = Source(file, asyncio.get_running_loop().create_future())
        app = web.Application()
        app[READ_AHEAD], app[WRITE_READINESS] = threads, readiness
        app.router.add_get("/{any:.*}", respond)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield BodyServer(f"http://127.0.0.1:{runner.addresses[0][1]}", source, slots, threads)
        finally:
            await runner.cleanup()
