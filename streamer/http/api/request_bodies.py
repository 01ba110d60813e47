"""Reads request bodies, within limits on their number, their bytes and the time they take."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streamer.errors import BodyTooLarge, SlowBody, Unavailable

MAX_BODY = 384 * 1024  # bytes: 1,599 long names in JSON's escapes, and 1000 UUIDs
MAX_BODIES = 64  # bodies at once
BODIES_LIMIT = 768 * 1024  # bytes of all bodies
BODY_TIMEOUT = 10.0  # seconds
TOO_LARGE = f"the request body has more than {MAX_BODY} bytes"


class RequestBodies:
    """The request bodies that are being received or processed."""

    def __init__(self, timeout: float = BODY_TIMEOUT) -> None:
        """`timeout`: seconds until a body must have been received."""
        self._timeout = timeout
        self._count = 0
        self._size = 0  # bytes received

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytearray]:
        """Reads the body, which counts while the context is open. It is empty if there is none.

        Raises BodyTooLarge, SlowBody, and Unavailable if there are too many bodies or too many bytes in them.
        """
        body = bytearray()
        if not request.can_read_body:
            yield body
            return
        if self._count >= MAX_BODIES:
            raise Unavailable(f"too many request bodies at once: {MAX_BODIES} are being read")
        self._count += 1
        try:
            await self._receive(request, body)
            yield body
        finally:
            self._count -= 1
            self._size -= len(body)

    async def _receive(self, request: web.Request, body: bytearray) -> None:
        if (request.content_length or 0) > MAX_BODY:
            raise BodyTooLarge(TOO_LARGE)
        try:
            async with asyncio.timeout(self._timeout):
                async for piece in request.content.iter_any():
                    self._append(body, piece)
        except TimeoutError as error:
            raise SlowBody(f"the request body did not arrive within {self._timeout:g} s") from error

    def _append(self, body: bytearray, piece: bytes) -> None:
        body += piece
        self._size += len(piece)
        if len(body) > MAX_BODY:
            raise BodyTooLarge(TOO_LARGE)
        if self._size > BODIES_LIMIT:
            raise Unavailable(f"the request bodies that are being read have more than {BODIES_LIMIT} bytes")
