"""The limit on large responses that wait for their clients."""

import socket
from contextlib import ExitStack, closing, suppress

import pytest
from aiohttp import web

from streamer.errors import Unavailable
from streamer.http.net.large_responses import LARGE_RESPONSES, MAX_WAITING, LargeResponses, limit_large_responses
from streamer.http.net.readiness import MIN_QUOTA, WRITE_READINESS, WriteReadiness, queued_bytes, set_send_buffer
from tests.polling import until
from tests.rawhttp import connection


def test_responses_beyond_the_limit_get_503_until_others_are_sent() -> None:
    responses = LargeResponses()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(responses.reserve(MAX_WAITING // 4))
        with pytest.raises(Unavailable, match="too many large answers"), responses.reserve(1):
            pytest.fail("a byte beyond the limit was reserved")
    with responses.reserve(MAX_WAITING):
        pass


def test_single_response_may_exceed_the_limit() -> None:
    responses = LargeResponses()
    with responses.reserve(2 * MAX_WAITING), pytest.raises(Unavailable), responses.reserve(1):
        pytest.fail("a second response was reserved")


@pytest.mark.parametrize("error", [ConnectionResetError(), KeyboardInterrupt()], ids=["reset", "interrupt"])
def test_reservation_is_released_when_sending_fails(error: BaseException) -> None:
    responses = LargeResponses()
    for _ in range(3):
        with suppress(ConnectionResetError, KeyboardInterrupt), responses.reserve(MAX_WAITING):
            raise error
    with responses.reserve(MAX_WAITING), pytest.raises(Unavailable), responses.reserve(1):
        pytest.fail("the limit has changed")


async def test_large_body_is_queued_as_a_whole_and_small_buffers_are_back_afterwards() -> None:
    """Through a small send buffer it would take a round trip for every few kilobytes."""
    body = bytes(200_000)
    sockets: list[socket.socket] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        sockets.append(request.transport.get_extra_info("socket"))
        set_send_buffer(sockets[0], MIN_QUOTA)
        return web.Response(body=body)

    app = web.Application(middlewares=[limit_large_responses])
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    with closing(WriteReadiness()) as readiness:
        app[LARGE_RESPONSES], app[WRITE_READINESS] = LargeResponses(), readiness
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with connection(f"http://127.0.0.1:{runner.addresses[0][1]}", receive=4096) as client:
            await client.send("GET", "/")

            async def queued() -> bool:
                return bool(sockets) and queued_bytes(sockets[0]) >= len(body) // 2

            await until(queued, "the body is not queued")
            assert await (await client.begin())[1].whole() == body

            async def small_again() -> bool:
                return sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == MIN_QUOTA

            await until(small_again, "the buffer stays large")
        await runner.cleanup()
