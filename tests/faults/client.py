"""A client that tells how a body ended: well, by FIN between two chunks, by FIN in the middle of something, by RST.

It accepts any answer and any end, because faults are injected all the time; what may not be is judged afterwards.
"""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlencode, urlsplit

PATIENCE = 20.0  # seconds for a whole answer
READ = 256 * 1024  # bytes


class End(Enum):
    WHOLE = "the framing says that this was all"
    BETWEEN = "closed between two chunks"
    WITHIN = "closed in the middle of something"
    RESET = "reset"
    NO_HEAD = "no answer"
    HUNG = f"nothing more came for {PATIENCE:g} s"
    LEFT = "the client left"


@dataclass
class Answer:
    """An answer while it comes; `received` is the body without its framing, still coded."""

    fields: dict[str, str] = field(default_factory=dict)
    status: int = 0
    received: bytearray = field(default_factory=bytearray)
    end: End | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # a byte of the body has come, or its end

    @property
    def whole(self) -> bool:
        return self.end is End.WHOLE

    @property
    def ok(self) -> bool:
        return self.status in (200, 202, 204, 206)

    @property
    def start(self) -> int:
        """Of which byte of the export the body begins."""
        return int(self.fields["content-range"].removeprefix("bytes ").partition("-")[0]) if self.status == 206 else 0

    def json(self) -> Any:
        return json.loads(self.received)

    def content(self) -> bytes:
        """What came of the export: gzip is undone as far as it came."""
        if self.fields.get("content-encoding") != "gzip":
            return bytes(self.received)
        return zlib.decompressobj(31).decompress(bytes(self.received))

    def framing_flaw(self) -> str | None:
        """What a careless client would take for the whole though it is not (wget: a FIN inside a chunk)."""
        if self.end in (End.WITHIN, End.HUNG):
            return f"a body of {self.status} ended: {self.end.value}"
        return None


class Client:
    """Requests on connections of their own."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def ask(self, method: str, path: str, fields: dict[str, str] | None = None, **query: str) -> Answer:
        """Never raises: an answer that did not come is one, too."""
        answer = Answer()
        await self.ask_into(answer, method, path, fields, **query)
        return answer

    async def ask_into(
        self, answer: Answer, method: str, path: str, fields: dict[str, str] | None = None, **query: str
    ) -> None:
        """For who wants to see the answer while it comes, or leave before its end."""
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ask(answer, method, target, fields or {})
        except TimeoutError:
            answer.end = End.HUNG
        except asyncio.CancelledError:
            answer.end = End.LEFT
            raise
        finally:
            answer.moved.set()

    async def _ask(self, answer: Answer, method: str, target: str, fields: dict[str, str]) -> None:
        answer.end = None
        parts = urlsplit(self.url)
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            answer.end = End.NO_HEAD
            return
        try:
            lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close", "Content-Length: 0"]
            lines += [f"{name}: {value}" for name, value in fields.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            if await self._read_head(reader, answer):
                await self._read_body(reader, answer, method)
        finally:
            writer.transport.abort()

    async def _read_head(self, reader: asyncio.StreamReader, answer: Answer) -> bool:
        try:
            text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, OSError):
            answer.end = End.NO_HEAD
            return False
        first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        answer.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer.status = int(first.split()[1])
        return True

    async def _read_body(self, reader: asyncio.StreamReader, answer: Answer, method: str) -> None:
        between = False
        try:
            if method == "HEAD" or answer.status in (204, 304):
                pass
            elif answer.fields.get("transfer-encoding") == "chunked":
                size = -1
                while size:
                    between = True
                    line = await reader.readuntil(b"\r\n")
                    between = False
                    size = int(line, 16)
                    async for piece in _exactly(reader, size):
                        answer.received += piece
                        answer.moved.set()
                    assert await reader.readexactly(2) == b"\r\n", "a chunk is longer than it says"
            else:
                async for piece in _exactly(reader, int(answer.fields["content-length"])):
                    answer.received += piece
                    answer.moved.set()
            answer.end = End.WHOLE
        except asyncio.IncompleteReadError as error:
            answer.end = End.BETWEEN if between and not error.partial else End.WITHIN
        except OSError:
            answer.end = End.RESET


async def _exactly(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length:
        piece = await reader.read(min(length, READ))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece
