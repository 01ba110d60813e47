"""How a connection ends early, as its client sees it."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from streamer.http.net.resets import reset, whole_or_reset
from tests.polling import PATIENCE


class Ends:
    """The two ends of a connection: a transport of the server, and the socket of a client."""

    def __init__(self, transport: asyncio.Transport, client: socket.socket) -> None:
        self.transport = transport
        self._client = client

    async def received(self) -> bytes:
        """Returns all that comes before the end. Raises ConnectionResetError."""
        loop, found = asyncio.get_running_loop(), b""
        async with asyncio.timeout(PATIENCE):
            while piece := await loop.sock_recv(self._client, 4096):
                found += piece
        return found


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        client.setblocking(False)
        accepted, _ = listener.accept()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=accepted)
        yield Ends(transport, client)
        transport.abort()


async def test_reset_is_seen_by_the_client(ends: Ends) -> None:
    reset(ends.transport)
    with pytest.raises(ConnectionResetError):
        await ends.received()


async def test_reset_of_a_closed_connection_does_nothing(ends: Ends) -> None:
    ends.transport.abort()
    assert await ends.received() == b""
    reset(ends.transport)


async def test_context_that_is_left_normally_lets_the_connection_be_closed(ends: Ends) -> None:
    with whole_or_reset(ends.transport):
        ends.transport.write(b"whole")
    ends.transport.close()
    assert await ends.received() == b"whole"


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_context_that_is_left_by_an_error_resets_the_connection(ends: Ends, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_or_reset(ends.transport):
        raise error
    with pytest.raises(ConnectionResetError):
        await ends.received()
