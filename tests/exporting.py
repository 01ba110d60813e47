"""What the server tests share: an export as its client sees it, sockets by hand.

Nothing here waits for luck: `until` is a bounded poll that says what it waited for.
"""

import asyncio
import hashlib
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

PATIENCE = 20.0  # seconds until a poll gives up
POLL_INTERVAL = 0.01  # seconds
SAVED_AS = re.compile(r'attachment; filename="[a-z0-9_-]+_[0-9]{4}-[0-9]{2}-[0-9]{2}[.]csv"')  # without filename=


async def until(met: Callable[[], Awaitable[bool]], hope: str, *, within: float = PATIENCE) -> None:
    """Polls until `met`, and fails the test with `hope` if that takes longer than `within` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + within
    while not await met():
        if clock() > deadline:
            pytest.fail(f"not within {within:g} s: {hope}")
        await asyncio.sleep(POLL_INTERVAL)


def sha256(pieces: bytes | Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class RemoteExport:
    """An export, seen over HTTP."""

    session: aiohttp.ClientSession
    server: str  # its URL
    id: str

    @property
    def path(self) -> str:
        return f"/exports/{self.id}/download"

    @property
    def resource(self) -> str:
        return f"{self.server}/exports/{self.id}"

    @property
    def download(self) -> str:
        return f"{self.server}{self.path}"

    @property
    def file_name(self) -> str:
        return f"{self.id}.csv"

    async def status(self) -> dict[str, Any]:
        async with self.session.get(f"{self.resource}/status") as response:
            assert response.status == 200, await response.text()
            found: dict[str, Any] = await response.json()
            return found

    async def until(self, state: str, *, within: float = PATIENCE) -> dict[str, Any]:
        """The status once it says `state`; a final state other than that fails at once."""
        found: dict[str, Any] = {}

        async def there() -> bool:
            found.update(await self.status())
            if found["status"] != state and found["status"] in {"completed", "failed", "cancelled"}:
                pytest.fail(f"the export should become {state} and is {found['status']}: {found['error']}")
            return bool(found["status"] == state)

        await until(there, f"export {self.id} is {state}", within=within)
        return found

    async def body(self) -> bytes:
        """The whole of a download, which must be a 200."""
        async with self.session.get(self.download) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def delete(self) -> int:
        """The HTTP status that DELETE answers."""
        async with self.session.delete(self.resource) as response:
            return response.status


async def create(
    session: aiohttp.ClientSession, server: str, *, body: object = None, **parameters: str
) -> RemoteExport:
    """`POST /exports/csv`, which must be accepted."""
    async with session.post(f"{server}/exports/csv", params=parameters, json=body) as response:
        assert response.status == 202, await response.text()
        return RemoteExport(session, server, (await response.json())["exportId"])


async def read_problem(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """The members of an RFC 9457 problem, which must be complete and have this status."""
    assert response.status == status, f"{response.status}, not {status}: {await response.text()}"
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = await response.json()
    assert {"type", "title", "status", "detail", "instance", "error"} <= problem.keys(), problem
    assert problem["status"] == status
    assert problem["detail"] == problem["error"] != ""
    assert problem["instance"] == response.url.path
    return problem


class Wire:
    """A connection by hand: what is sent is what the test says, and what comes is seen byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.reset = False  # whether the connection has ended with RST

    def ask(self, path: str, *fields: str, method: str = "GET", version: str = "1.1") -> None:
        """Sends a request without a body."""
        lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and fields (names in lower case) of the answer that comes next."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        start, *lines = text.strip().split("\r\n")
        found = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3}) .*", start)
        assert found, f"no status line: {start!r}"
        fields = dict(line.split(": ", 1) for line in lines)
        return int(found[1]), {name.lower(): value for name, value in fields.items()}

    async def body(self, fields: dict[str, str], most: Callable[[], int] = lambda: 65536) -> AsyncIterator[bytes]:
        """The body that goes with these fields, at most `most()` bytes at a time.

        Raises IncompleteReadError or ConnectionResetError if it ends early.
        """
        if "content-length" in fields:
            async for piece in self._exactly(int(fields["content-length"]), most):
                yield piece
            return
        assert fields["transfer-encoding"] == "chunked"
        size = -1
        while size:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            async for piece in self._exactly(size, most):
                yield piece
            assert await self.reader.readexactly(2) == b"\r\n", "a chunk is longer than it says"

    async def digest(self, fields: dict[str, str]) -> str:
        """The SHA-256 of the body."""
        digest = hashlib.sha256()
        async for piece in self.body(fields):
            digest.update(piece)
        return digest.hexdigest()

    async def _exactly(self, size: int, most: Callable[[], int]) -> AsyncIterator[bytes]:
        while size:
            piece = await self.reader.read(min(size, most()))
            if not piece:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(piece)
            yield piece

    async def rest(self) -> bytes:
        """Whatever comes until the server closes or resets the connection, which it must."""
        pieces = []
        try:
            async with asyncio.timeout(PATIENCE):
                while piece := await self.reader.read(65536):
                    pieces.append(piece)
        except ConnectionResetError:
            self.reset = True
        return b"".join(pieces)


@asynccontextmanager
async def wired(server: str, *, receive_buffer: int | None = None) -> AsyncIterator[Wire]:
    """A TCP connection to the server; `receive_buffer` is in bytes, for the socket and for this side of it."""
    address = urlsplit(server)
    assert address.hostname
    assert address.port
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=max(receive_buffer or 65536, 2048))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def follow_at_random(export: RemoteExport, seed: int) -> str:
    """The SHA-256 of a download that is read in small pieces, with pauses, through a small buffer."""
    chance = random.Random(seed)
    digest = hashlib.sha256()
    async with wired(export.server, receive_buffer=chance.choice([4096, 16384, 65536])) as wire:
        wire.ask(export.path)
        status, fields = await wire.head()
        assert status == 200
        largest = chance.choice([1000, 5000, 20000])
        async for piece in wire.body(fields, lambda: chance.randint(1, largest)):
            digest.update(piece)
            if chance.random() < 0.01:
                await asyncio.sleep(chance.random() / 50)
    return digest.hexdigest()
