"""Accepts connections, up to a limit.

An open connection costs memory whether it sends requests or not, so their number is limited. One more is answered with
503 and closed, by a protocol that is smaller than a request. A connection without a whole request head is closed after
the idle timeout, and one whose client stops reading after the send timeout. So an unused connection does not keep other
clients out.
"""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from aiohttp import web

from streamer.http.aiohttp_internals import Site
from streamer.http.net.connection import TOO_MANY_CONNECTIONS, Connection, ConnectionLimits, OpenConnections
from streamer.http.net.readiness import MIN_QUOTA, set_send_buffer
from streamer.http.net.send_timeout import SendTimeout

RECEIVE_BUFFER = 8 * 1024  # bytes of a client that the kernel keeps until they are read
EVERY_ADDRESS = {"0.0.0.0": ("0.0.0.0",), "::": ("::", "0.0.0.0")}  # noqa: S104 - by the user's choice
SPARE_CONNECTIONS = 100  # of clients that do not download, beside MAX_DOWNLOADS
BACKLOG = 1024  # connections that the kernel keeps until they are accepted


class Refusal(asyncio.Protocol):
    """A connection beyond the limit."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._listener.refusals += 1
        self._transport.write(TOO_MANY_CONNECTIONS)
        if self._listener.refusals > self._listener.connections.limits.refusals:
            self._transport.close()
            return
        self._transport.write_eof()
        # Closed with the request unread, it would be reset, and the client might not see the response.
        asyncio.get_running_loop().call_later(self._listener.connections.limits.linger, self._transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.refusals -= 1


class Listener(Site):
    """Accepts connections on a TCP port of each host, at most `limit` at once.

    `::` is every address of this machine, those of IPv4 included, whatever net.ipv6.bindv6only says. A client that
    reads nothing for `send_timeout` seconds while data is queued for it is disconnected.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        hosts: Sequence[str],
        port: int,
        *,
        limit: int,
        limits: ConnectionLimits,
        send_timeout: float,
    ) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self.connections = OpenConnections(limits, SendTimeout(send_timeout))
        self.refusals = 0  # that are not closed yet
        self._hosts = tuple(dict.fromkeys(address for host in hosts for address in EVERY_ADDRESS.get(host, (host,))))
        self._port = port
        self._limit = limit
        self._servers: dict[str, asyncio.Server] = {}  # by host
        self._send_timeouts: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """A URL of the server that works on this machine."""
        host = "127.0.0.1" if self._hosts[0] in EVERY_ADDRESS else self._hosts[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def start(self) -> None:
        """Binds the port, and accepts nothing yet. Raises OSError with the host as its filename.

        Port 0 is one that is free at the first host.
        """
        await super().start()
        for host in self._hosts:
            self._servers[host] = await self._bind(host)

    async def _bind(self, host: str) -> asyncio.Server:
        with _named(host):
            server = await asyncio.get_running_loop().create_server(
                self._protocol, host, self._port, backlog=BACKLOG, start_serving=False
            )
        self._port = self._port or server.sockets[0].getsockname()[1]
        for listening in server.sockets:  # each connection inherits both, and the kernel doubles them (socket(7))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER // 2)
            set_send_buffer(listening, MIN_QUOTA)
        return server

    async def accept(self) -> None:
        """Begins to accept. Raises OSError as `start` does if another process listens on the port meanwhile."""
        for host, server in self._servers.items():
            with _named(host):
                await server.start_serving()
        run = self.connections.send_timeout.run()
        self._send_timeouts = asyncio.get_running_loop().create_task(run, name="send timeouts")

    async def stop(self) -> None:
        if self._send_timeouts is not None:
            self._send_timeouts.cancel()
        for server in self._servers.values():
            server.close()
        await super().stop()

    def _protocol(self) -> asyncio.Protocol:
        if self.connections.count >= self._limit:
            return Refusal(self)
        self.connections.count += 1
        return Connection(self.connections, self.server)


@contextmanager
def _named(host: str) -> Iterator[None]:
    """Adds the host to an OSError: the system does not say which of several it refuses."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, host) from error
