"""A TCP proxy before PostgreSQL: the faults that come from outside.

It lets a database come up late, and it can hold back the answer to one statement that the server has executed already.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PIECE = 65536  # bytes


class Proxy:
    """Has a port of this machine from the start, and accepts connections to it once `listen` has been called."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._closed = False
        self._held_text: bytes | None = None
        self._holds_commit = False
        self._released = asyncio.Event()
        self.holding = asyncio.Event()

    @property
    def url(self) -> str:
        """The same database, through the proxy."""
        parts = urlsplit(self._target)
        user, at, _ = parts.netloc.rpartition("@")
        port = self._socket.getsockname()[1]
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}", query="").geturl()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._socket)

    async def close(self) -> None:
        """Cuts every connection."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        self._socket.close()
        await self.cut_links()

    def hold_answer_to(self, text: str, *, commit: bool = False) -> None:
        """Once: the statement with this text is executed, and its answer waits for `release`; `holding` says so.

        With `commit` it is the answer to the COMMIT of its transaction that waits.
        """
        self._held_text = text.encode()
        self._holds_commit = commit

    def release(self) -> None:
        self._released.set()

    async def cut_links(self) -> None:
        """Cuts the connections that there are; new ones are accepted."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        link.add_done_callback(lambda _: abandon(writer))

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, to_upstream = await _open(self._target)
        except OSError:
            writer.transport.abort()
            return
        flowing = asyncio.Event()
        flowing.set()
        pumps = {
            asyncio.create_task(self._requests(reader, to_upstream, flowing)),
            asyncio.create_task(self._answers(upstream, writer, flowing)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, to_upstream):
                end.close()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, to_upstream):
                with suppress(OSError):
                    await end.wait_closed()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        execution: bytes | None = None  # what the message contains that executes the statement, once it was prepared
        while request := await reader.read(PIECE):
            if execution is not None and execution in request:
                execution = None
                flowing.clear()
                self.holding.set()
            elif self._held_text is not None and self._held_text in request:
                execution, self._held_text = b"COMMIT" if self._holds_commit else b"", None
            writer.write(request)
            await writer.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        while answer := await reader.read(PIECE):
            if not flowing.is_set():
                await self._released.wait()
                flowing.set()
            writer.write(answer)
            await writer.drain()


@asynccontextmanager
async def proxied(url: str, *, listening: bool = True) -> AsyncIterator[Proxy]:
    """A proxy before the database, closed with the context."""
    proxy = Proxy(url)
    try:
        if listening:
            await proxy.listen()
        yield proxy
    finally:
        await proxy.close()


def abandon(writer: asyncio.StreamWriter) -> None:
    """Of a task that has ended: if it was cancelled before it began, it has not closed its connection."""
    if not writer.is_closing():
        writer.transport.abort()


async def _open(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """By TCP, or where the URL names a folder as the host by the socket in it."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0]
    port = parts.port or 5432
    if host.startswith("/"):
        return await asyncio.open_unix_connection(Path(host) / f".s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)
