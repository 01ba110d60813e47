"""Large answers: a status with a thousand values in it, a dataset of a thousand columns.

aiohttp hands a body over to the transport at once, which keeps it until the client has taken it. A client that asks and
does not read would have that memory for nothing, so all large bodies that wait have one limit together.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from streamer.errors import Unavailable

LARGE = 16 * 1024  # bytes of a body
ANSWERS_LIMIT = 512 * 1024  # bytes of all large bodies that wait for their clients; a single one may be larger


class Answers:
    """The large ones that are being sent."""

    def __init__(self) -> None:
        self._waiting = 0  # bytes

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Raises Unavailable if there is no room for so many bytes beside those of others."""
        if self._waiting and self._waiting + size > ANSWERS_LIMIT:
            raise Unavailable("too many large answers at once")
        self._waiting += size
        try:
            yield
        finally:
            self._waiting -= size


ANSWERS = web.AppKey("answers", Answers)


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keeps a large answer until the client has taken it from the transport, and no longer."""
    response = await handler(request)
    body = response.body if isinstance(response, web.Response) else None
    if request.method == "HEAD" or not isinstance(response, web.Response) or not isinstance(body, bytes):
        return response
    if len(body) > LARGE:
        with request.app[ANSWERS].held(len(body)):
            await response.prepare(request)
            await response.write_eof()
            await request.writer.drain()
        response.body = None  # aiohttp remembers the last response of a connection until the next
    return response
