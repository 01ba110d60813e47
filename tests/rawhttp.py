"""An HTTP client that sees every byte: requests as they are written, answers as they come, and how a body ended.

The usual clients hide what is tested with it: the framing, a field that is sent twice, bytes behind the end, and the
difference between a connection that is closed between two chunks and one that is cut in the middle of something.
Whatever is not well-formed fails the test.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from tests.polling import PATIENCE

READ = 256 * 1024  # bytes
BUFFER = 1024 * 1024  # bytes that are read before somebody asks for them
STATUS_LINE = re.compile(r"HTTP/(1\.[01]) ([0-9]{3}) ([ -~]*)")
FIELD_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
CHUNK_HEAD = re.compile(rb"[0-9A-Fa-f]+\r\n")

Fields = Mapping[str, str | tuple[str, ...]]
"""Header fields; a tuple is sent in several lines."""


class End(Enum):
    WHOLE = "the framing says that this was all"
    CLOSED = "the connection was closed before that, between two chunks"
    CUT = "the connection was closed in the middle of something"
    RESET = "the connection was reset"


@dataclass(frozen=True)
class Head:
    """A status line and the fields below it."""

    version: str
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        assert value is not None, f"there is no {name} in {self}"
        return value

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.names

    @property
    def names(self) -> set[str]:
        """In lower case."""
        return {name.lower() for name, _ in self.fields}

    def get(self, name: str) -> str | None:
        values = [value for found, value in self.fields if found.lower() == name.lower()]
        assert len(values) <= 1, f"{name} is sent {len(values)} times in {self}"
        return values[0] if values else None


@dataclass(frozen=True)
class Answer:
    """A head and a body that came whole."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    def __getitem__(self, name: str) -> str:
        return self.head[name]

    def __contains__(self, name: str) -> bool:
        return name in self.head

    def get(self, name: str) -> str | None:
        return self.head.get(name)

    def json(self) -> Any:
        return json.loads(self.body)


class Body:
    """A body as it comes: `received` is what has come of it, without the framing."""

    def __init__(self, reader: asyncio.StreamReader, method: str, head: Head) -> None:
        self.received = bytearray()
        self.end: End | None = None
        self._reader = reader
        self._between = False
        self._most = READ
        self._pieces = self._framed(method, head)

    async def grow_to(self, length: int) -> bytes:
        """The first `length` bytes, as soon as they are there."""
        while len(self.received) < length:
            if not await self.more():
                break
        assert len(self.received) >= length, f"the body ended after {len(self.received)} bytes: {self.end}"
        return bytes(self.received[:length])

    async def finish(self) -> End:
        """Reads to the end, and tells how it ended."""
        while await self.more():
            pass
        assert self.end is not None
        return self.end

    async def whole(self) -> bytes:
        assert await self.finish() is End.WHOLE, f"{self.end} after {len(self.received)} bytes"
        return bytes(self.received)

    async def more(self, most: int = READ) -> bool:
        """Reads on, so many bytes at most. Whether that was not the end."""
        if self.end is None:
            self._most = most
            async with asyncio.timeout(PATIENCE):
                await self._next()
        return self.end is None

    async def _next(self) -> None:
        try:
            self.received += await anext(self._pieces)
        except StopAsyncIteration:
            self.end = End.WHOLE
        except asyncio.IncompleteReadError as error:
            self.end = End.CLOSED if self._between and not error.partial else End.CUT
        except OSError:
            self.end = End.RESET

    def _framed(self, method: str, head: Head) -> AsyncIterator[bytes]:
        """RFC 9112, 6.3."""
        if method == "HEAD" or head.status in (204, 304):
            return self._exactly(0)
        if (coding := head.get("Transfer-Encoding")) is not None:
            assert (coding, head.get("Content-Length"), head.version) == ("chunked", None, "1.1")
            return self._chunks()
        return self._exactly(int(head["Content-Length"]))

    async def _exactly(self, length: int) -> AsyncIterator[bytes]:
        while length:
            piece = await self._reader.read(min(length, self._most))
            if not piece:
                raise asyncio.IncompleteReadError(b"", length)
            length -= len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        """RFC 9112, 7.1, without extensions and trailers."""
        while True:
            self._between = True
            line = await self._reader.readuntil(b"\r\n")
            assert CHUNK_HEAD.fullmatch(line), f"not the head of a chunk: {line[:80]!r}"
            self._between = False
            async for piece in self._exactly(int(line, 16)):
                yield piece
            assert await self._reader.readexactly(2) == b"\r\n"
            if int(line, 16) == 0:
                return


class Connection:
    """A connection to a server. Requests may be sent before the answers to others have come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.reset = False  # whether it has ended with RST

    async def ask(self, method: str, target: str, fields: Fields | None = None) -> Answer:
        await self.send(method, target, fields)
        return await self.answer(method)

    async def send(self, method: str, target: str, fields: Fields | None = None, version: str = "1.1") -> None:
        self.writer.write(request(method, target, fields or {}, version))
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        head, body = await self.begin(method)
        return Answer(head, await body.whole())

    async def begin(self, method: str = "GET") -> tuple[Head, Body]:
        """The head of an answer, and its body while it comes."""
        async with asyncio.timeout(PATIENCE):
            text = await self.reader.readuntil(b"\r\n\r\n")
        head = _head(text.decode("latin-1"))
        return head, Body(self.reader, method, head)

    async def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long. What comes is lost."""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return True

    async def ended(self) -> bool:
        """Whether the server closes the connection without another byte."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1) == b""

    async def rest(self) -> bytes:
        """Whatever comes, framing and all, until the server closes or resets the connection, which it must."""
        pieces = []
        try:
            async with asyncio.timeout(PATIENCE):
                while piece := await self.reader.read(READ):
                    pieces.append(piece)
        except ConnectionResetError:
            self.reset = True
        return b"".join(pieces)

    def vanish(self) -> None:
        """As a client that was killed: what is unread is not read, and the server is told by a reset."""
        self.writer.transport.abort()


@asynccontextmanager
async def connection(url: str, *, receive: int | None = None) -> AsyncIterator[Connection]:
    """A connection to the server at `url`. With `receive`, no more than about so many bytes come unread."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
        if receive is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=plain, limit=receive or BUFFER)
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()


async def ask(
    url: str, method: str, target: str, fields: Fields | None = None, version: str = "1.1", *, close: bool = True
) -> Answer:
    """One request on a connection of its own; behind the answer there is nothing."""
    async with connection(url) as alone:
        closing = {"Connection": "close"} if close else {}
        await alone.send(method, target, {**(fields or {}), **closing}, version)
        answer = await alone.answer(method)
        assert not close or await alone.ended(), "there is something behind the answer"
        return answer


def request(method: str, target: str, fields: Fields, version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: streamer.example"]
    for name, values in fields.items():
        lines += [f"{name}: {value}" for value in ((values,) if isinstance(values, str) else values)]
    return "\r\n".join([*lines, "", ""]).encode()


def _head(text: str) -> Head:
    first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
    status_line = STATUS_LINE.fullmatch(first)
    assert status_line, f"not a status line: {first!r}"
    fields = []
    for line in lines:
        field = FIELD_LINE.fullmatch(line)
        assert field, f"not a header field: {line!r}"
        fields.append((field[1], field[2]))
    return Head(status_line[1], int(status_line[2]), status_line[3], tuple(fields))
