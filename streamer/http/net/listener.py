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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from streamer.errors import Unavailable
from streamer.http.net.access_log import AccessLog
from streamer.http.net.readiness import MIN_QUOTA, set_send_buffer
from streamer.http.net.send_timeout import SendTimeout
from streamer.http.problems import before_a_request, malformed, refused_by_aiohttp

IDLE_TIMEOUT = 75.0  # seconds without a whole request head, the first one or the next
MAX_TARGET = 64 * 1024  # bytes of a request's target: 1000 UUIDs, each with the name of its column
MAX_FIELD = 8 * 1024  # bytes of one header field
MAX_FIELDS = 64
MAX_HEAD = 128 * 1024  # bytes of all of it
HEADS_LIMIT = 2 * 1024 * 1024  # bytes of all heads that are being read or answered
READ_BUFFER = 16 * 1024  # bytes that asyncio asks of a socket at a time, and that are kept of a body nobody reads
WRITE_BUFFER = 0  # bytes that wait in a connection before its writer waits
UNREAD = 8 * 1024  # bytes that the kernel keeps of what a client says and nobody reads yet
EVERY_ADDRESS = {"0.0.0.0": ("0.0.0.0",), "::": ("::", "0.0.0.0")}  # noqa: S104 - by the user's choice
BACKLOG = 1024  # connections that the kernel keeps for us
LINGER = 1.0  # seconds that a client has to read its refusal
LINGERING = 256  # refusals at once; beyond these a connection is closed at once, and may miss its answer


class Connection(web.RequestHandler):
    """One client's connection, counted while it is open."""

    __slots__ = ("_content", "_follows", "_half_closed", "_head", "_listener", "_pending", "_sizes", "_watched")

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
        self._half_closed = False  # the client sends no more, and may still read
        self._follows = False  # what is being answered may take for ever

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

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open: a client that sends no more reads the answers to what it has sent.

        Between two requests, or in the middle of one, it has gone. So it has where the answer is a live download: a
        client that was killed looks the same, and would be waited for until the next byte.
        """
        idle = self._waiter is not None and not self._waiter.done()
        reading = self._pending > 0 or (self._content is not None and not self._content.is_eof())
        closing = (self._close and not self._half_closed) or self._force_close  # sendfile has it read once more
        if idle or reading or self._follows or closing:
            return False
        self._half_closed = True
        self._close_after_the_last()
        return True

    def leave_at_eof(self) -> None:
        """A client that sends no more has gone, from now on and until the answer is over."""
        self._follows = True
        if self._half_closed and self.transport is not None:
            self.transport.close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp refuses before any middleware is told in our own form, too."""
        self._follows = False
        self._close_after_the_last()
        answer = refused_by_aiohttp(request, resp) if isinstance(resp, web.HTTPException) else resp
        return await super().finish_response(request, answer, start_time)

    def _close_after_the_last(self) -> None:
        if self._half_closed and not self._messages:
            self.close()

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
    """Accepts connections on a TCP port of each host, at most `limit` at once.

    `::` is every address of this machine, those of IPv4 included, whatever net.ipv6.bindv6only says.

    A client that takes no byte of what is sent to it for `stall_timeout` seconds is disconnected.
    """

    def __init__(
        self, runner: web.AppRunner, hosts: Sequence[str], port: int, *, limit: int, stall_timeout: float
    ) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self.stalls = SendTimeout(stall_timeout)
        self._watching: asyncio.Task[None] | None = None
        self.open = 0
        self.heads = 0  # bytes
        self.refused = 0  # and not closed yet
        self._hosts = tuple(dict.fromkeys(host for named in hosts for host in EVERY_ADDRESS.get(named, (named,))))
        self._port = port
        self._servers: dict[str, asyncio.Server] = {}  # by host
        self._limit = limit

    @property
    def name(self) -> str:
        """A URL that can be asked from this machine."""
        host = "127.0.0.1" if self._hosts[0] in EVERY_ADDRESS else self._hosts[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def start(self) -> None:
        """Takes the port, and accepts nothing yet. Raises OSError, with the host as its filename, if it cannot be had.

        Port 0 is one that is free at the first host.
        """
        await super().start()
        for host in self._hosts:
            with _names(host):
                server = await asyncio.get_running_loop().create_server(
                    self._protocol, host, self._port, backlog=BACKLOG, start_serving=False
                )
            self._servers[host] = server
            self._port = self._port or server.sockets[0].getsockname()[1]
            for listening in server.sockets:  # each connection inherits both, and the kernel doubles them (socket(7))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD // 2)
                set_send_buffer(listening, MIN_QUOTA)

    async def accept(self) -> None:
        """Raises OSError, as `start`, if another process listens there meanwhile."""
        for host, server in self._servers.items():
            with _names(host):
                await server.start_serving()
        self._watching = asyncio.get_running_loop().create_task(self.stalls.run(), name="stall watch")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for server in self._servers.values():
            server.close()
        await super().stop()

    def _protocol(self) -> asyncio.Protocol:
        if self.open >= self._limit:
            return Refusal(self)
        assert self._runner.server is not None
        self.open += 1
        return Connection(self, self._runner.server)


@contextmanager
def _names(host: str) -> Iterator[None]:
    """The system does not say which of several hosts it refuses."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, host) from error


REFUSED = before_a_request(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too many connections at once",
    code=Unavailable.code,
    retry_after=Unavailable.retry_after,
)
TOO_LARGE = before_a_request(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head of the request has more than {MAX_HEAD} bytes"
)
