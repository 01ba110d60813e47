"""Limits the memory of large responses, such as a status with a thousand values or a dataset of a thousand columns.

aiohttp hands a whole body to the transport, which keeps it until the client has read it. A client that does not read
would hold that memory, so all large bodies that wait have one limit together. Within it a body may be queued in the
kernel as a whole: through the small send buffer of a connection it would take a round trip for every few kilobytes.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from streamer.errors import Unavailable
from streamer.http.aiohttp_internals import response_writer
from streamer.http.net.readiness import MIN_QUOTA, buffer_holding, set_send_buffer, wait_drained

LARGE = 16 * 1024  # bytes of a body
MAX_WAITING = 512 * 1024  # bytes of all large bodies that wait for their clients; a single one may be larger


class LargeResponses:
    """The large responses that are being sent."""

    def __init__(self) -> None:
        self._waiting = 0  # bytes

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserves `size` bytes while the context is open. Raises Unavailable if others have reserved too many."""
        if self._waiting and self._waiting + size > MAX_WAITING:
            raise Unavailable("too many large answers at once")
        self._waiting += size
        try:
            yield
        finally:
            self._waiting -= size


LARGE_RESPONSES = web.AppKey("large responses", LargeResponses)


@web.middleware
async def limit_large_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Sends a large body here, and waits until the client has read nearly all of it."""
    response = await handler(request)
    body = response.body if isinstance(response, web.Response) else None
    if request.method == "HEAD" or not isinstance(response, web.Response) or not isinstance(body, bytes):
        return response
    if len(body) > LARGE:
        with request.app[LARGE_RESPONSES].reserve(len(body)), _queued_as_a_whole(request, len(body)):
            await response.prepare(request)
            await response.write_eof()
            await response_writer(request).drain()
            await wait_drained(request)
        response.body = None  # aiohttp keeps the last response of a connection until the next request
    return response


@contextmanager
def _queued_as_a_whole(request: web.Request, size: int) -> Iterator[None]:
    """While the context is open, `size` bytes may be queued in the socket."""
    if request.transport is None:
        yield
        return
    connection: socket.socket = request.transport.get_extra_info("socket")
    set_send_buffer(connection, buffer_holding(size))
    try:
        yield
    finally:
        if connection.fileno() >= 0:
            set_send_buffer(connection, MIN_QUOTA)
