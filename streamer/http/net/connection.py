"""One client's connection: how many bytes of request heads it holds, and what the end of the client's data means.

The heads of all requests that are being read, answered, or wait for it have one limit together. asyncio reads in small
pieces, a body that is not read stays in the kernel, and so do the bytes of a response that the client has not taken.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from aiohttp import StreamReader, web

from streamer.errors import Unavailable
from streamer.http.aiohttp_internals import RequestLimits, RequestProtocol, protocol_of, set_read_size
from streamer.http.net.access_log import AccessLog
from streamer.http.net.send_timeout import SendTimeout
from streamer.http.problems import early_response, malformed, refused_by_aiohttp

MAX_TARGET = 64 * 1024  # bytes of a request's target: 1000 UUIDs, each with the name of its column
MAX_FIELD = 8 * 1024  # bytes of one header field
MAX_FIELDS = 64
MAX_HEAD = 128 * 1024  # bytes of all heads of one connection
HEADS_LIMIT = 2 * 1024 * 1024  # bytes of all heads that are being read or answered
READ_BUFFER = 16 * 1024  # bytes that asyncio reads of a socket at a time, and that are kept of an unread body
WRITE_BUFFER = 0  # bytes that wait in a transport before its writer waits
TOO_MANY_CONNECTIONS = early_response(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too many connections at once",
    code=Unavailable.code,
    retry_after=Unavailable.retry_after,
)
HEAD_TOO_LARGE = early_response(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head of the request has more than {MAX_HEAD} bytes"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Times are in seconds, sizes in bytes."""

    idle_timeout: float = 75.0  # without a whole request head, the first one or the next
    linger: float = 1.0  # that a client has to read its refusal, or to send the rest of an unread body
    head_bytes: int = HEADS_LIMIT
    refusals: int = 256  # that wait for their clients; beyond these a client may miss the response


@dataclass(slots=True)
class OpenConnections:
    """What all open connections share."""

    limits: ConnectionLimits
    send_timeout: SendTimeout
    count: int = 0
    head_bytes: int = 0  # of all heads that are being read or answered


class RequestHeads:
    """The bytes of request heads that one connection holds."""

    __slots__ = ("_answering", "_reading", "_shared", "size")

    def __init__(self, shared: OpenConnections) -> None:
        self._shared = shared
        self._reading = 0  # bytes of the head that is being read
        self._answering: deque[int] = deque()  # bytes of each head that is being answered, or waits for it
        self.size = 0  # bytes of all of them

    @property
    def reading(self) -> bool:
        """Whether a part of a head has been received."""
        return self._reading > 0

    def receive(self, size: int) -> None:
        self._reading += size
        self._add(size)

    def complete(self, requests: int) -> None:
        """The bytes received were the heads of so many requests; all are counted with the first."""
        self._answering.extend([self._reading, *[0] * (requests - 1)])
        self._reading = 0

    def release_answered(self, unanswered: int) -> None:
        """Releases the heads of all requests but the last `unanswered`."""
        while len(self._answering) > unanswered:
            self._add(-self._answering.popleft())

    def release(self) -> None:
        """Releases all heads, at the end of the connection."""
        self._add(-self.size)

    def _add(self, size: int) -> None:
        self.size += size
        self._shared.head_bytes += size


class Connection(RequestProtocol):
    """A connection of a client. It is counted in `shared` by its creator, and until it is lost."""

    __slots__ = ("_body", "_follows", "_half_closed", "_heads", "_shared", "_watched")

    def __init__(self, shared: OpenConnections, server: web.Server) -> None:
        super().__init__(
            server,
            RequestLimits(target=MAX_TARGET, field=MAX_FIELD, fields=MAX_FIELDS, unread_body=READ_BUFFER),
            idle_timeout=shared.limits.idle_timeout,
            linger=shared.limits.linger,
            access_log=AccessLog,
        )
        self._shared = shared
        self._heads = RequestHeads(shared)
        self._body: StreamReader | None = None  # the request body that is being received
        self._half_closed = False  # the client has closed its sending side, and may still read
        self._follows = False  # the response under way may last as long as a live export

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watched = cast("asyncio.Transport", transport)  # `transport` is None once aiohttp closes the connection
        self._watched.set_write_buffer_limits(WRITE_BUFFER)
        set_read_size(self._watched, READ_BUFFER)
        self._shared.send_timeout.add(self._watched)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._shared.count -= 1
        self._heads.release()
        self._shared.send_timeout.remove(self._watched)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.closes_after_response or self.is_closed:
            return
        self._heads.release_answered(self.queued_requests + (not self.is_idle))
        if not self._receives_body:
            self._heads.receive(len(data))
        if self._heads.size > MAX_HEAD:
            self._refuse(HEAD_TOO_LARGE)
        elif self._shared.head_bytes > self._shared.limits.head_bytes:
            self._refuse(TOO_MANY_CONNECTIONS)
        else:
            self._read(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Returns whether the connection stays open, so that the client can read the responses to its requests.

        A client that ends its data between two requests, or within one, has left. So has one that follows a live
        export: a client that was killed looks the same, and its connection would stay open until the next byte.
        """
        # Called once more after a sendfile: then `close` may have been called because of the half-closed connection.
        closing = (self.closes_after_response and not self._half_closed) or self.is_closed
        if self.is_idle or self._heads.reading or self._receives_body or self._follows or closing:
            return False
        self._half_closed = True
        self._close_after_last_response()
        return True

    def close_at_eof(self) -> None:
        """Closes the connection when the client ends its data, from now on and until the response is sent."""
        self._follows = True
        if self._half_closed and self.transport is not None:
            self.transport.close()

    def final_response(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        """Replaces the responses that aiohttp makes before any middleware is called."""
        self._follows = False
        self._close_after_last_response()
        return refused_by_aiohttp(request, response) if isinstance(response, web.HTTPException) else response

    def malformed_response(self, request: web.BaseRequest, error: Exception) -> web.Response:
        return malformed(request, error, max_target=MAX_TARGET, max_fields=MAX_FIELDS)

    @property
    def _receives_body(self) -> bool:
        return self._body is not None and not self._body.is_eof()

    def _read(self, data: bytes) -> None:
        queued = self.queued_requests
        super().data_received(data)
        if self.queued_requests > queued:
            self._body = self.newest_body
            self._heads.complete(self.queued_requests - queued)

    def _close_after_last_response(self) -> None:
        if self._half_closed and not self.queued_requests:
            self.close()

    def _refuse(self, response: bytes) -> None:
        """Closes the connection with this response; without one if another response is under way."""
        assert self.transport is not None
        if self.is_idle:
            self.transport.write(response)
            self.force_close()
        else:
            self.close()


def close_at_eof(request: web.Request) -> None:
    """Closes the request's connection when the client ends its data, until the response is sent."""
    connection = protocol_of(request)
    assert isinstance(connection, Connection)
    connection.close_at_eof()
