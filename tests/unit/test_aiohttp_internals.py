"""The undocumented parts of aiohttp and asyncio that the server uses, each with a sentence for a version without it."""

import ast
import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web

import streamer.http
from streamer.http import aiohttp_internals
from streamer.http.aiohttp_internals import (
    GuardedResponse,
    RequestLimits,
    RequestProtocol,
    Site,
    exceeded_limit,
    has_too_many_fields,
    protocol_of,
    response_begun,
    response_writer,
    set_read_size,
)
from streamer.http.net.access_log import AccessLog
from tests.polling import until
from tests.rawhttp import Connection, End, connection, request

LIMITS = RequestLimits(target=1000, field=500, fields=10, unread_body=4096)
READ_SIZE = 1000  # bytes
GET = request("GET", "/", {})

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Protocol(RequestProtocol):
    """Records what aiohttp calls it with."""

    def __init__(self, site: "TestSite", *, idle_timeout: float) -> None:
        super().__init__(site.server, LIMITS, idle_timeout=idle_timeout, linger=1.0, access_log=AccessLog)
        self.made: asyncio.Transport | None = None
        self.pieces: list[int] = []
        self.malformed: list[Exception] = []
        self.final: list[web.StreamResponse] = []
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.made = cast("asyncio.Transport", transport)
        set_read_size(self.made, READ_SIZE)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(len(data))
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.lost.set()

    def final_response(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        self.final.append(response)
        return response

    def malformed_response(self, request: web.BaseRequest, error: Exception) -> web.StreamResponse:
        self.malformed.append(error)
        response = web.Response(status=400)
        response.force_close()
        return response


class TestSite(Site):
    __test__ = False

    def __init__(self, runner: web.AppRunner, *, idle_timeout: float) -> None:
        super().__init__(runner)
        self.protocols: list[Protocol] = []
        self._idle_timeout = idle_timeout
        self._socket: asyncio.Server | None = None

    @property
    def name(self) -> str:
        assert self._socket is not None
        return f"http://127.0.0.1:{self._socket.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        await super().start()
        self._socket = await asyncio.get_running_loop().create_server(self._protocol, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._socket is not None
        self._socket.close()
        await super().stop()

    def _protocol(self) -> Protocol:
        self.protocols.append(Protocol(self, idle_timeout=self._idle_timeout))
        return self.protocols[-1]


@dataclass
class Server:
    site: TestSite
    runner: web.AppRunner
    requests: list[web.Request] = field(default_factory=list)

    @property
    def protocol(self) -> Protocol:
        return self.site.protocols[-1]


@asynccontextmanager
async def serving(handle: Handle, *, idle_timeout: float = 60.0) -> AsyncIterator[tuple[Server, Connection]]:
    """A server whose only handler is `handle`, and a connection to it."""

    async def recorded(request: web.Request) -> web.StreamResponse:
        server.requests.append(request)
        return await handle(request)

    app = web.Application()
    app.router.add_route("*", "/", recorded)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = TestSite(runner, idle_timeout=idle_timeout)
    await site.start()
    server = Server(site, runner)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        yield server, await stack.enter_async_context(connection(site.name))


async def empty(request: web.Request) -> web.StreamResponse:
    return web.Response()


class Handler:
    """A handler that waits until it is released, and then reads the request body and returns it."""

    def __init__(self) -> None:
        self.waiting, self.release = asyncio.Event(), asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.waiting.set()
        await self.release.wait()
        return web.Response(body=await request.read())


@pytest.mark.parametrize(
    ("head", "limit"),
    [
        (request("GET", "/?" + 1000 * "x", {}), LIMITS.target),
        (request("GET", "/", {"X": 501 * "x"}), LIMITS.field),
    ],
    ids=["target", "field"],
)
async def test_parser_names_the_limit_that_a_line_exceeds(head: bytes, limit: int) -> None:
    async with serving(empty) as (server, client):
        client.writer.write(head)
        assert (await client.answer()).status == 400
        (error,) = server.protocol.malformed
        assert exceeded_limit(error) == limit, f"aiohttp reports {error!r}, in which the limit is not args[1]"
        assert not has_too_many_fields(error)


async def test_parser_reports_too_many_fields_in_the_known_words() -> None:
    async with serving(empty) as (server, client):
        client.writer.write(request("GET", "/", {f"X-{number}": "1" for number in range(LIMITS.fields)}))
        assert (await client.answer()).status == 400
        (error,) = server.protocol.malformed
        assert has_too_many_fields(error), f"aiohttp reports too many header fields as {error!r}"
        assert exceeded_limit(error) is None


async def test_other_malformed_requests_exceed_no_limit() -> None:
    async with serving(empty) as (server, client):
        client.writer.write(b"garbage\r\n\r\n")
        assert (await client.answer()).status == 400
        (error,) = server.protocol.malformed
        assert exceeded_limit(error) is None
        assert not has_too_many_fields(error)


async def test_limits_are_those_of_the_arguments_and_not_below_them() -> None:
    async with serving(empty) as (_, client):
        fields = {f"X-{number}": "1" for number in range(LIMITS.fields - 2)} | {"Y": 490 * "x"}
        client.writer.write(request("GET", "/?" + 950 * "x", fields))
        assert (await client.answer()).status == 200, "aiohttp counts the limits of a request in another way"


async def test_connection_is_idle_until_a_head_is_complete_and_after_its_response() -> None:
    handler = Handler()
    async with serving(handler.handle) as (server, client):
        await client.send("GET", "/")
        await handler.waiting.wait()
        assert not server.protocol.is_idle, "aiohttp's _waiter is set while a request is being answered"
        handler.release.set()
        await client.answer()
        await until(lambda: server.protocol.is_idle, "aiohttp's _waiter is not set between two requests")
        client.writer.write(GET[:10])
        await until(lambda: sum(server.protocol.pieces) > len(GET), "the bytes were not received")
        assert server.protocol.is_idle, "aiohttp's _waiter is not set while a head is incomplete"


async def test_requests_behind_the_one_that_is_answered_wait_in_a_queue_with_their_bodies() -> None:
    handler = Handler()
    async with serving(handler.handle) as (server, client):
        await client.send("GET", "/")
        await handler.waiting.wait()
        assert server.protocol.queued_requests == 0, "aiohttp's _messages has the request that is being answered"
        with pytest.raises(IndexError):
            server.protocol.newest_body  # noqa: B018
        client.writer.write(GET + request("POST", "/", {"Content-Length": "5"}) + b"12")
        await until(lambda: server.protocol.queued_requests == 2, "aiohttp's _messages has not the requests that wait")
        body = server.protocol.newest_body
        assert not body.is_eof(), "a body of which a part is missing is at its end"
        client.writer.write(b"345")
        await until(body.is_eof, "a whole body is not at its end")
        handler.release.set()
        for _ in range(3):
            assert (await client.answer()).status == 200
        assert server.protocol.queued_requests == 0


async def test_close_lets_the_response_end_and_force_close_does_not() -> None:
    handler = Handler()
    async with serving(handler.handle) as (server, client):
        await client.send("GET", "/")
        await handler.waiting.wait()
        assert not server.protocol.closes_after_response
        assert not server.protocol.is_closed
        server.protocol.close()
        assert server.protocol.closes_after_response, "close() of aiohttp does not set _close"
        assert not server.protocol.is_closed
        handler.release.set()
        assert (await client.answer()).status == 200
        assert await client.ended()
        async with connection(server.site.name) as other:
            handler.waiting.clear()
            handler.release.clear()
            await other.send("GET", "/")
            await handler.waiting.wait()
            server.protocol.force_close()
            assert server.protocol.is_closed, "force_close() of aiohttp does not set _force_close"
            assert await other.rest() == b""


async def test_aiohttp_drops_its_transport_when_it_closes_and_counts_the_connection_until_it_is_lost() -> None:
    async with serving(empty) as (server, client):
        await client.ask("GET", "/")
        assert server.runner.server is not None
        assert server.runner.server.connections == [server.protocol], "web.Server does not know the connection"
        server.protocol.force_close()
        assert server.protocol.transport is None
        assert server.protocol.made is not None
        await server.protocol.lost.wait()
        assert server.runner.server.connections == []


async def test_idle_connection_is_closed_after_the_idle_timeout() -> None:
    async with serving(empty, idle_timeout=0.2) as (_, client):
        assert await client.rest() == b"", "keepalive_timeout does not end a connection without a request"


async def test_responses_of_aiohttp_and_of_handlers_go_through_final_response() -> None:
    async with serving(empty) as (server, client):
        assert (await client.ask("GET", "/nothing")).status == 404
        assert (await client.ask("GET", "/")).status == 200
        assert (await client.ask("GET", "/", {"Expect": "nothing"})).status == 417
        final = server.protocol.final
        assert [response.status for response in final] == [404, 200, 417], "finish_response of aiohttp is not called"
        refusals = [isinstance(response, web.HTTPException) for response in final]
        assert refusals == [True, False, True], "aiohttp does not refuse a request by HTTPException"


async def test_request_body_is_not_decompressed() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    body = gzip.compress(10_000 * b"x")
    async with serving(echo) as (_, client):
        client.writer.write(request("POST", "/", {"Content-Length": str(len(body)), "Content-Encoding": "gzip"}) + body)
        assert (await client.answer()).body == body, "auto_decompress=False does not keep a body as it is"


async def test_unread_body_stays_in_the_kernel_beyond_the_limit() -> None:
    handler = Handler()
    body = 200 * LIMITS.unread_body * b"x"
    async with serving(handler.handle) as (server, client):
        client.writer.write(request("POST", "/", {"Content-Length": str(len(body))}) + body)
        await handler.waiting.wait()
        transport = server.protocol.made
        assert transport is not None
        await until(lambda: not transport.is_reading(), "read_bufsize of aiohttp does not pause reading")
        received = sum(server.protocol.pieces)
        assert received <= 4 * LIMITS.unread_body, f"aiohttp keeps {received} bytes of an unread body"
        handler.release.set()
        same = (await client.answer()).body == body
        assert same


async def test_socket_is_read_in_pieces_of_the_read_size() -> None:
    async def read(request: web.Request) -> web.StreamResponse:
        return web.Response(body=str(len(await request.read())).encode())

    async with serving(read) as (server, client):
        client.writer.write(request("POST", "/", {"Content-Length": "100000"}) + bytes(100_000))
        assert (await client.answer()).body == b"100000"
        largest = max(server.protocol.pieces)
        assert largest == READ_SIZE, f"max_size of asyncio's transport has no effect: it read {largest} bytes at once"


async def test_protocol_of_a_request_is_that_of_its_connection() -> None:
    async with serving(empty) as (server, client):
        await client.ask("GET", "/")
        assert protocol_of(server.requests[0]) is server.protocol


async def test_headers_are_written_by_prepare_and_before_bytes_written_to_the_socket() -> None:
    async def write_directly(request: web.Request) -> web.StreamResponse:
        response = GuardedResponse()
        response.enable_chunked_encoding()
        begun.append(response_begun(request))
        await response.prepare(request)
        begun.append(response_begun(request))
        await response_writer(request).drain()
        assert request.transport is not None
        request.transport.write(b"5\r\nhello\r\n")
        response.whole = True
        return response

    begun: list[bool] = []
    async with serving(write_directly) as (_, client):
        answer = await client.ask("GET", "/")
        assert answer.body == b"hello", "aiohttp keeps the headers, or ends a chunked body in another way"
        assert begun == [False, True], "output_size of aiohttp's writer does not count the headers"
        assert (await client.ask("GET", "/")).body == b"hello"


async def test_writer_sends_bytes_of_a_body_of_known_length_as_they_are() -> None:
    async def write(request: web.Request) -> web.StreamResponse:
        response = GuardedResponse()
        response.content_length = 5
        await response.prepare(request)
        await response_writer(request).write(memoryview(b"hello"))
        response.whole = True
        return response

    async with serving(write) as (_, client):
        assert (await client.ask("GET", "/")).body == b"hello"


async def test_drain_waits_until_the_transport_has_sent_its_buffer() -> None:
    async def write(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.set_write_buffer_limits(0)
        response = GuardedResponse()
        response.content_length = len(body)
        await response.prepare(request)
        request.transport.write(body)
        written.set()
        await response_writer(request).drain()
        left.append(request.transport.get_write_buffer_size())
        response.whole = True
        return response

    body, written, left = bytes(20_000_000), asyncio.Event(), list[int]()
    async with serving(write) as (_, client):
        await client.send("GET", "/")
        await written.wait()
        assert left == []
        assert (await client.answer()).body == body
        assert left == [0], "drain() of aiohttp's writer returns before the transport has sent its buffer"


@pytest.mark.parametrize("whole", [True, False])
async def test_guarded_response_ends_only_if_its_body_is_whole(whole: bool) -> None:
    async def write(request: web.Request) -> web.StreamResponse:
        response = GuardedResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"hello")
        response.whole = whole
        return response

    async with serving(write) as (_, client):
        await client.send("GET", "/")
        _, body = await client.begin()
        end = await body.finish()
        assert end is (End.WHOLE if whole else End.CLOSED), f"aiohttp does not end a body by write_eof: {end}"
        assert body.received == b"hello"


@pytest.mark.parametrize("piece", [b"hello", bytearray(b"hello")], ids=["bytes", "bytearray"])
async def test_guarded_response_sends_a_body_in_memory_once(piece: bytes | bytearray) -> None:
    async def write(request: web.Request) -> web.StreamResponse:
        response = GuardedResponse()
        response.content_length = len(piece)
        await response.prepare(request)
        await response.write_only(piece)
        response.whole = True
        return response

    async with serving(write) as (_, client):
        for _ in range(2):
            assert (await client.ask("GET", "/")).body == piece, "write_eof of aiohttp does not send its argument once"


async def test_runner_stops_a_site_that_was_started() -> None:
    async with serving(empty) as (server, client):
        assert server.site in server.runner.sites, "start() of BaseSite does not register the site"
        assert server.site.server is server.runner.server
        await client.ask("GET", "/")
        await server.runner.cleanup()
        assert server.site not in server.runner.sites, "cleanup() of the runner does not stop the site"
        assert await client.rest() == b""


def test_no_other_module_of_the_server_uses_these_parts() -> None:
    private = {"RequestHandler", "BaseSite", "max_size", "output_size", "writer", "protocol"}
    folder = Path(streamer.http.__file__).parent
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = isinstance(node, ast.ImportFrom) and node.module == "aiohttp.http_exceptions"
            if imported or (isinstance(node, ast.Attribute) and node.attr in private):
                found.append(path.name)
    others = set(found) - {Path(aiohttp_internals.__file__).name}
    assert not others, f"undocumented parts of aiohttp are used outside of aiohttp_internals.py, in {others}"
    assert found, "the search finds nothing"
