"""Every use of aiohttp and asyncio beyond their documented interfaces. No other module of the server has one.

pyproject.toml keeps aiohttp below the next minor version. tests/unit/test_aiohttp_internals.py has a test for each use,
which fails when a new version behaves in another way.
"""

import asyncio
from dataclasses import dataclass
from typing import cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractAccessLogger, AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

TOO_MANY_FIELDS = "Too many headers received"  # the message of aiohttp's parser, which has no type for this error


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Limits of aiohttp's parser."""

    target: int  # bytes of a request target
    field: int  # bytes of a header field
    fields: int  # header fields of a request
    unread_body: int  # bytes of a body that are kept until a handler reads them


class RequestProtocol(web.RequestHandler):
    """One connection: aiohttp reads its requests, calls their handlers one after another and sends the responses.

    aiohttp documents neither its constructor nor its attributes.
    """

    __slots__ = ()

    def __init__(
        self,
        server: web.Server,
        limits: RequestLimits,
        *,
        idle_timeout: float,
        linger: float,
        access_log: type[AbstractAccessLogger],
    ) -> None:
        """`idle_timeout`: seconds without a whole request head. `linger`: seconds that an unread body is drained."""
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle_timeout,
            access_log_class=access_log,
            max_line_size=limits.target,
            max_field_size=limits.field,
            max_headers=limits.fields,
            read_bufsize=limits.unread_body,
            lingering_time=linger,
            auto_decompress=False,  # a small body would become a large one
        )

    @property
    def is_idle(self) -> bool:
        """Whether the connection waits for the head of a request, and no request is being answered."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def closes_after_response(self) -> bool:
        """Whether `close` was called: nothing more is read, and the response under way is the last."""
        return self._close

    @property
    def is_closed(self) -> bool:
        """Whether `force_close` was called, by aiohttp or by this server."""
        return self._force_close

    @property
    def queued_requests(self) -> int:
        """The number of requests whose heads have been read and whose handlers have not begun."""
        return len(self._messages)

    @property
    def newest_body(self) -> StreamReader:
        """The body of the last request in the queue. Raises IndexError if the queue is empty."""
        return self._messages[-1][1]

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        return await super().finish_response(request, self.final_response(request, resp), start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError):
            return self.malformed_response(request, exc)
        return super().handle_error(request, status, exc, message)

    def final_response(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        """Returns the response to send in place of that of the handler, or of the HTTPException of aiohttp."""
        return response

    def malformed_response(self, request: web.BaseRequest, error: Exception) -> web.StreamResponse:
        """Returns the response to bytes that aiohttp could not read as a request."""
        raise NotImplementedError


class Site(web.BaseSite):
    """Listening sockets that AppRunner stops with the application. A subclass opens them."""

    @property
    def server(self) -> web.Server:
        """The server that the connections of this site belong to."""
        assert self._runner.server is not None
        return self._runner.server


class GuardedResponse(web.StreamResponse):
    """A response that ends only if its body is whole.

    When a handler has returned, aiohttp calls `write_eof`, which sends the final chunk. If it raises ConnectionError,
    aiohttp closes the connection and logs nothing.
    """

    whole = False

    async def write_eof(self, data: bytes = b"") -> None:
        if not self.whole:
            raise ConnectionResetError("the body is not whole")
        await super().write_eof(data)

    async def write_only(self, body: bytes | bytearray) -> None:
        """Sends the whole body at once. aiohttp's annotation allows only bytes; its transport takes both."""
        await super().write_eof(cast("bytes", body))


def exceeded_limit(error: Exception) -> int | None:
    """Returns the limit in bytes that a target or a header field exceeds; None if another error made it malformed."""
    return error.args[1] if isinstance(error, LineTooLong) else None


def has_too_many_fields(error: Exception) -> bool:
    return isinstance(error, HttpProcessingError) and error.message == TOO_MANY_FIELDS


def response_writer(request: web.BaseRequest) -> AbstractStreamWriter:
    """Returns the writer of the response. Its `drain` waits until the transport has sent its own buffer."""
    return request.writer


def response_begun(request: web.BaseRequest) -> bool:
    """Whether any byte of the response has been written."""
    return request.writer.output_size > 0


def protocol_of(request: web.BaseRequest) -> web.RequestHandler:
    """Returns the protocol of the request's connection."""
    return request.protocol


def set_read_size(transport: asyncio.Transport, size: int) -> None:
    """Makes asyncio read at most `size` bytes of a socket at a time; its own size is 256 kB."""
    transport.max_size = size  # type: ignore[attr-defined]
