"""A client that accepts any answer and any end, because faults are injected all the time; it is judged afterwards."""

import asyncio
import json
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlencode

from tests.polling import PATIENCE
from tests.rawhttp import End, connection


class NoEnd(Enum):
    """Why an answer has no end that its framing knows."""

    NO_HEAD = "no answer"
    HUNG = f"nothing more came for {PATIENCE:g} s"
    LEFT = "the client left"


@dataclass
class Answer:
    """An answer while it comes; `received` is the body without its framing, still coded."""

    fields: dict[str, str] = field(default_factory=dict)  # by their names in lower case
    status: int = 0
    received: bytearray = field(default_factory=bytearray)
    end: End | NoEnd | None = None
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
        if self.end in (End.CUT, NoEnd.HUNG):
            return f"a body of {self.status} ended: {self.end.value}"
        return None


class Client:
    """Requests on connections of their own."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def ask(self, method: str, path: str, fields: dict[str, str] | None = None, **query: str) -> Answer:
        """Returns an answer that did not come, too. Raises only for one that is not HTTP."""
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
            answer.end = NoEnd.HUNG
        except asyncio.CancelledError:
            answer.end = NoEnd.LEFT
            raise
        finally:
            answer.moved.set()

    async def _ask(self, answer: Answer, method: str, target: str, fields: dict[str, str]) -> None:
        answer.end = NoEnd.NO_HEAD
        try:
            async with connection(self.url) as wire:
                await wire.send(method, target, {"Connection": "close", "Content-Length": "0", **fields})
                head, body = await wire.begin(method)
                answer.status, answer.received, answer.end = head.status, body.received, None
                answer.fields = {name.lower(): value for name, value in head.fields}
                while await body.more():
                    answer.moved.set()
                answer.end = body.end
        except TimeoutError:
            raise
        except (asyncio.IncompleteReadError, OSError):
            assert answer.end is NoEnd.NO_HEAD, "a body reports its end, and raises nothing"
