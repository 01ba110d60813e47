"""The door: how many connections may be open at once, and what becomes of the others.

An open connection costs memory whether it asks for something or not, so their number is limited. One more is answered
with 503 and closed, by a protocol that is smaller than a request. A connection that says nothing, or says it too
slowly, is closed after `IDLE_TIMEOUT`; one whose client takes nothing of what is sent to it is broken by the stall
watch. So a place is never lost to somebody who does not use it. The heads of all requests together have a limit too,
and what is written waits in the kernel, not here.
"""

import asyncio
import socket
from collections import deque
from http import HTTPStatus
from typing import cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from streamer.errors import Unavailable
from streamer.http.access_log import AccessLog
from streamer.http.problems import before_a_request, malformed
from streamer.http.room import LEAST_SHARE, limit_waiting
from streamer.http.stalls import StallWatch

IDLE_TIMEOUT = 75.0  # seconds without a whole request head, the first one or the next
MAX_TARGET = 64 * 1024  # bytes of a request's target: 1000 UUIDs, each with the name of its column
MAX_FIELD = 8 * 1024  # bytes of one header field
MAX_FIELDS = 64
MAX_HEAD = 128 * 1024  # bytes of all of it
HEADS_LIMIT = 2 * 1024 * 1024  # bytes of all heads that are being read or answered
READ_BUFFER = 16 * 1024  # bytes that asyncio asks of a socket at a time, and that are kept of a body nobody reads
WRITE_BUFFER = 0  # bytes that wait in a connection before its writer waits
UNREAD = 8 * 1024  # bytes that the kernel keeps of what a client says and nobody reads yet
BACKLOG = 1024  # connections that the kernel keeps for us
LINGER = 1.0  # seconds that a client has to read its refusal
LINGERING = 256  # refusals at once; beyond these a connection is closed at once, and may miss its answer


class Connection(web.RequestHandler):
    """One client's connection, counted while it is open."""

    __slots__ = ("_content", "_head", "_listener", "_pending", "_sizes", "_watched")

    def __init__(self, listener: "Listener", server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_TIMEOUT,
            access_log_class=AccessLog,
            max_line_size=MAX_TARGET,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            read_bufsize=READ_BUFFER,
            lingering_time=LINGER,
            auto_decompress=False,  # a small body would become a large one
        )
        self._listener = listener
        self._head = 0  # bytes of all heads that are being read or answered
        self._pending = 0  # bytes of the one that is being read
        self._sizes: deque[int] = deque()  # of those that are being answered, or wait for it
        self._content: StreamReader | None = None  # the body that is coming in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = cast("asyncio.Transport", transport)
        connection.set_write_buffer_limits(WRITE_BUFFER)
        connection.max_size = READ_BUFFER  # type: ignore[attr-defined]
        self._watched = connection  # aiohttp forgets its own when it closes
        self._listener.stalls.add(connection)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.open -= 1
        self._count_head(-self._head)
        self._listener.stalls.remove(self._watched)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._close or self._force_close:
            return  # nobody will read it
        reading_head = self._waiter is not None and not self._waiter.done()
        while len(self._sizes) > len(self._messages) + (not reading_head):
            self._count_head(-self._sizes.popleft())  # that one is answered
        if self._content is None or self._content.is_eof():
            self._pending += len(data)
            self._count_head(len(data))
        if self._head > MAX_HEAD:
            self._refuse(TOO_LARGE if reading_head else b"")
        elif self._listener.heads > HEADS_LIMIT:
            self._refuse(REFUSED if reading_head else b"")
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        waiting = len(self._messages)
        super().data_received(data)
        if len(self._messages) > waiting:
            self._content = self._messages[-1][1]
            self._sizes.extend([self._pending, *[0] * (len(self._messages) - waiting - 1)])
            self._pending = 0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be read as a request is told in our own form, without a trace in the log."""
        if isinstance(exc, HttpProcessingError):
            return malformed(request, exc, target_limit=MAX_TARGET, most_fields=MAX_FIELDS)
        return super().handle_error(request, status, exc, message)

    def _count_head(self, size: int) -> None:
        self._head += size
        self._listener.heads += size

    def _refuse(self, answer: bytes) -> None:
        """In the middle of an answer there is no place for another one: then nothing more is read."""
        assert self.transport is not None
        if answer:
            self.transport.write(answer)
            self.force_close()
        else:
            self.close()


class Refusal(asyncio.Protocol):
    """A connection too many."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._listener.refused += 1
        self._transport.write(REFUSED)
        if self._listener.refused > LINGERING:
            self._transport.close()
            return
        self._transport.write_eof()
        # Closed with the request unread, it would be reset, and the client might not see the answer.
        asyncio.get_running_loop().call_later(LINGER, self._transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.refused -= 1


class Listener(web.BaseSite):
    """Accepts connections on a TCP port, at most `limit` at once.

    A client that takes no byte of what is sent to it for `stall_timeout` seconds is disconnected.
    """

    def __init__(self, runner: web.AppRunner, host: str, port: int, *, limit: int, stall_timeout: float) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self.stalls = StallWatch(stall_timeout)
        self._watching: asyncio.Task[None] | None = None
        self.open = 0
        self.heads = 0  # bytes
        self.refused = 0  # and not closed yet
        self._host = host
        self._port = port
        self._limit = limit

    @property
    def name(self) -> str:
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Takes the port, and accepts nothing yet. Raises OSError if it cannot be had."""
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._protocol, self._host, self._port, backlog=BACKLOG, start_serving=False
        )
        for listening in self._server.sockets:  # each connection inherits both, and the kernel doubles them (socket(7))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD // 2)
            limit_waiting(listening, LEAST_SHARE)

    async def accept(self) -> None:
        """Raises OSError if another process listens there meanwhile."""
        server = cast("asyncio.Server", self._server)
        await server.start_serving()
        self._watching = asyncio.get_running_loop().create_task(self.stalls.run(), name="stall watch")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await super().stop()

    def _protocol(self) -> asyncio.Protocol:
        if self.open >= self._limit:
            return Refusal(self)
        assert self._runner.server is not None
        self.open += 1
        return Connection(self, self._runner.server)


REFUSED = before_a_request(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too many connections at once",
    code=Unavailable.code,
    retry_after=Unavailable.retry_after,
)
TOO_LARGE = before_a_request(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head of the request has more than {MAX_HEAD} bytes"
)
