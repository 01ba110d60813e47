"""The listener and its connections, over real sockets: limits, refusals, timeouts and malformed requests.

The counters of the listener are checked beside the responses: nothing may be left of a connection that is closed.
Limits and times are small in tests that need to reach them.
"""

import asyncio
import fcntl
import gc
import logging
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from streamer.config import Duration
from streamer.http.net.connection import HEADS_LIMIT, MAX_FIELD, MAX_FIELDS, MAX_HEAD, MAX_TARGET, ConnectionLimits
from streamer.http.net.listener import Listener
from streamer.http.net.readiness import MIN_QUOTA
from streamer.http.net.send_timeout import SendTimeout
from streamer.server.tuning import Tuning
from tests.held import BULK, SMALL, Held, HeldExport, gated_server, scratch_database
from tests.polling import until
from tests.rawhttp import Body, Connection, End, Fields, ask, connection, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEALTH = b"GET /health HTTP/1.1\r\nHost: test\r\n"
ESTABLISHED = 1  # TCP_ESTABLISHED of linux/tcp_states.h
BEGUN = HEALTH + b"X-Slow: "  # a head without an end


@dataclass(frozen=True)
class Server:
    held: Held
    listener: Listener

    @property
    def url(self) -> str:
        return self.held.url

    async def empty(self) -> None:
        """Waits until every connection is closed. Fails if the counters are not 0 then."""

        async def all_closed() -> bool:
            return (self.listener.connections.count, self.listener.refusals) == (0, 0)

        await until(
            all_closed, f"{self.listener.connections.count} connections and {self.listener.refusals} refusals are left"
        )
        assert self.listener.connections.head_bytes == 0

    async def has_heads(self, size: int) -> None:
        """Waits until it has so many bytes of request heads."""
        counted = self.listener.connections
        await until(lambda: counted.head_bytes == size, f"not {size} bytes of heads are counted")

    async def has_open(self, number: int) -> None:
        async def there() -> bool:
            return self.listener.connections.count == number

        await until(there, f"not {number} connections are open")


class Serve(Protocol):
    async def __call__(self, *, limit: int | None = None, **settings: Any) -> Server: ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[str]:
    async with scratch_database(postgres) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serve]:
    """Starts a server for at most `limit` connections, or the usual number. Equal arguments share a server."""
    started: dict[str, Server] = {}
    listeners = []

    class Known(Listener):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            listeners.append(self)

    async with AsyncExitStack() as stack:

        async def start(*, limit: int | None = None, **settings: Any) -> Server:
            name = f"{limit} {settings}"
            if name not in started:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr("streamer.server.http.Listener", Known)
                    if limit is not None:
                        tuning = replace(settings.get("tuning") or Tuning(), spare_connections=limit - 1)
                        settings |= {"max_downloads": 1, "tuning": tuning}
                    spool = tmp_path_factory.mktemp("spool")
                    held = await stack.enter_async_context(gated_server(database, spool, **settings))
                started[name] = Server(held, listeners[-1])
            return started[name]

        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def serve(servers: Serve) -> AsyncIterator[Serve]:
    """As `servers`. Each server has no work and no connection before and after the test."""
    used: list[Server] = []

    async def start(**settings: Any) -> Server:
        used.append(await servers(**settings))
        return used[-1]

    yield start
    for server in used:
        await server.held.settle()
        await server.empty()


@pytest_asyncio.fixture(loop_scope="module")
async def server(serve: Serve) -> Server:
    return await serve()


async def healthy(wire: Connection) -> None:
    assert (await wire.ask("GET", "/health")).status == 200


async def expect_refusal(wire: Connection) -> None:
    """Expects a whole problem with Retry-After, and then the end of the connection."""
    response = await wire.answer()
    problem = response.json()
    assert response.status == 503
    assert response["Content-Type"] == "application/problem+json"
    assert int(response["Retry-After"]) > 0
    assert response["Connection"] == "close"
    assert problem["status"] == 503
    assert problem["detail"] == problem["error"] == "too many connections at once"
    assert problem["type"] == "urn:streamer:problem:unavailable"
    assert "title" in problem
    assert await wire.rest() == b""


async def test_connection_beyond_the_limit_gets_503_and_is_closed(serve: Serve) -> None:
    server = await serve(limit=2)
    async with connection(server.url) as first, connection(server.url) as second:
        await healthy(first)
        await healthy(second)
        for _ in range(3):
            async with connection(server.url) as third:
                await expect_refusal(third)
        await healthy(first)
        await healthy(second)
    await server.empty()


async def test_refused_client_that_has_sent_a_request_reads_the_503(serve: Serve) -> None:
    server = await serve(limit=1)
    async with connection(server.url) as first:
        await healthy(first)
        async with connection(server.url) as second:
            second.writer.write(request("POST", "/exports/csv", {"Content-Length": "60000"}) + bytes(60000))
            await expect_refusal(second)


async def test_connection_without_a_request_counts_against_the_limit(serve: Serve) -> None:
    server = await serve(limit=1)
    async with connection(server.url):
        await server.has_open(1)
        async with connection(server.url) as second:
            await expect_refusal(second)


async def test_closed_connection_makes_room_for_another(serve: Serve) -> None:
    server = await serve(limit=1)
    for _ in range(3):
        async with connection(server.url) as only:
            await healthy(only)
            async with connection(server.url) as refused:
                await expect_refusal(refused)
        await server.empty()


async def test_many_short_connections_leave_the_counters_at_zero(serve: Serve) -> None:
    server = await serve(limit=20)

    async def visit(number: int) -> bool:
        async with connection(server.url) as wire:
            if number % 3:
                wire.writer.write(HEALTH + b"\r\n")
            if number % 3 == 1:
                return (await wire.answer()).status == 200
        return False

    served = await asyncio.gather(*map(visit, range(200)))
    assert any(served)
    await server.empty()
    async with connection(server.url) as later:
        await healthy(later)


async def test_refusals_beyond_their_limit_are_closed_at_once(serve: Serve) -> None:
    server = await serve(limit=1, tuning=Tuning(connections=ConnectionLimits(refusals=3, linger=3600.0)))
    async with AsyncExitStack() as stack:
        await healthy(await stack.enter_async_context(connection(server.url)))
        lingering = [await stack.enter_async_context(connection(server.url)) for _ in range(3)]
        for wire in lingering:
            assert (await wire.answer()).status == 503
        for _ in range(5):
            async with connection(server.url) as hurried:
                assert (await hurried.answer()).status == 503
                assert await hurried.rest() == b""
        lingering[0].writer.transport.abort()

        async def one_has_gone() -> bool:
            return server.listener.refusals == 2

        await until(one_has_gone, "the end of a refusal is not noticed")
        async with connection(server.url) as refused:
            await expect_refusal(refused)
    await server.empty()


async def test_refused_connection_that_stays_open_is_closed_after_a_while(serve: Serve) -> None:
    server = await serve(limit=1, tuning=Tuning(connections=ConnectionLimits(linger=0.1)))
    async with connection(server.url) as only, connection(server.url) as refused:
        await healthy(only)
        assert (await refused.answer()).status == 503

        async def closed() -> bool:
            return server.listener.refusals == 0

        await until(closed, "the refusal stays open")
        await healthy(only)


IDLE_TIMEOUT = 0.4  # seconds


@pytest_asyncio.fixture(loop_scope="module")
async def impatient(serve: Serve) -> Server:
    """A server that closes a connection without a whole head after IDLE_TIMEOUT."""
    return await serve(tuning=Tuning(connections=ConnectionLimits(idle_timeout=IDLE_TIMEOUT)))


async def drip(wire: Connection, head: bytes) -> None:
    """Sends a head byte by byte, slower than the server waits for all of it."""
    while not wire.reader.at_eof() and not wire.writer.transport.is_closing():
        for byte in head:
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("before", ["first", "next"])
@pytest.mark.parametrize("said", ["nothing", "a part of a head", "a head, slowly"])
async def test_connection_without_a_whole_head_is_closed(impatient: Server, before: str, said: str) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with connection(impatient.url) as wire:
        if before == "next":
            begun = clock()
            await healthy(wire)
        if said == "a part of a head":
            wire.writer.write(BEGUN)
        dripping = asyncio.create_task(drip(wire, BEGUN)) if said == "a head, slowly" else None
        assert await wire.rest() == b""
        assert clock() - begun >= IDLE_TIMEOUT * 0.9
        if dripping is not None:
            await dripping
    await impatient.empty()


async def test_connection_with_a_request_now_and_then_stays_open(serve: Serve) -> None:
    """Each pause is far shorter than the idle timeout, and all of them together are longer."""
    server = await serve(tuning=Tuning(connections=ConnectionLimits(idle_timeout=1.5)))
    async with connection(server.url) as wire:
        await healthy(wire)
        for _ in range(6):
            await asyncio.sleep(0.3)
            await healthy(wire)


async def test_follower_that_waits_for_rows_is_not_idle(impatient: Server) -> None:
    export = await impatient.held.export(SMALL, at=1)
    async with connection(impatient.url) as follower:
        await follower.send("GET", export.download)
        _, body = await follower.begin()
        await body.grow_to(len(SMALL.through(1)))
        await asyncio.sleep(3 * IDLE_TIMEOUT)
        await follower.send("GET", "/health")
        await impatient.held.open()
        assert await body.whole() == SMALL.whole
        assert (await follower.answer("GET")).status == 200


@dataclass(frozen=True)
class Malformed:
    name: str
    head: bytes
    status: int
    sentence: str

    @property
    def wrong_at_its_end(self) -> bool:
        return self.status != 400 or self.name == "no host"

    def __str__(self) -> str:
        return self.name


NO_HTTP = "not well-formed HTTP"
MALFORMED = (
    Malformed("a field", HEALTH + b"X: " + (MAX_FIELD + 1) * b"x" + b"\r\n\r\n", 431, f"more than {MAX_FIELD} bytes"),
    Malformed("a name", HEALTH + (MAX_FIELD + 1) * b"x" + b": 1\r\n\r\n", 431, f"more than {MAX_FIELD} bytes"),
    Malformed(
        "a URL",
        b"GET /?" + MAX_TARGET * b"x" + b" HTTP/1.1\r\nHost: test\r\n\r\n",
        414,
        f"more than {MAX_TARGET} bytes",
    ),
    Malformed("many fields", HEALTH + MAX_FIELDS * b"X: 1\r\n" + b"\r\n", 431, f"more than {MAX_FIELDS} header fields"),
    Malformed("garbage", b"garbage\r\n\r\n", 400, NO_HTTP),
    Malformed("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, NO_HTTP),
    Malformed("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, NO_HTTP),
    Malformed("another version", b"GET /health HTTP/9.9\r\nHost: test\r\n\r\n", 400, NO_HTTP),
    Malformed("no host", b"GET /health HTTP/1.1\r\n\r\n", 400, NO_HTTP),
    Malformed("no field", HEALTH + b"no colon\r\n\r\n", 400, NO_HTTP),
    Malformed("a space before the colon", HEALTH + b"X : 1\r\n\r\n", 400, NO_HTTP),
    Malformed("a folded field", HEALTH + b"X: 1\r\n 2\r\n\r\n", 400, NO_HTTP),
    Malformed("NUL", HEALTH + b"X: 1\x002\r\n\r\n", 400, NO_HTTP),
    Malformed("two lengths", HEALTH + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, NO_HTTP),
    Malformed("a length and chunks", HEALTH + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, NO_HTTP),
    Malformed("less than nothing", HEALTH + b"Content-Length: -1\r\n\r\n", 400, NO_HTTP),
)


@contextmanager
def only_info_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails if a traceback, or a record above INFO, is logged in the context."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        yield
    loud = [found for found in caplog.records if found.levelno > logging.INFO or found.exc_info]
    assert not loud, f"logged: {loud[0].getMessage()}"


async def is_refused_as(case: Malformed, wire: Connection) -> None:
    response = await wire.answer()
    problem = response.json()
    assert (response.status, response["Content-Type"]) == (case.status, "application/problem+json")
    assert problem["status"] == case.status
    assert case.sentence in problem["detail"] == problem["error"]
    assert await wire.rest() == b""


@pytest.mark.parametrize("case", MALFORMED, ids=str)
async def test_malformed_request_gets_a_problem_and_is_the_last_of_its_connection(
    server: Server, caplog: pytest.LogCaptureFixture, case: Malformed
) -> None:
    with only_info_logged(caplog):
        async with connection(server.url) as wire:
            wire.writer.write(case.head)
            await is_refused_as(case, wire)
    await server.empty()


@pytest.mark.parametrize("case", [case for case in MALFORMED if case.wrong_at_its_end], ids=str)
async def test_request_that_is_malformed_at_its_end_is_refused_when_it_comes_in_pieces(
    server: Server, caplog: pytest.LogCaptureFixture, case: Malformed
) -> None:
    with only_info_logged(caplog):
        async with connection(server.url) as wire:
            third = len(case.head) // 3
            for place in (0, third):
                wire.writer.write(case.head[place : place + third])
                await server.has_heads(place + third)
            wire.writer.write(case.head[2 * third :])
            await is_refused_as(case, wire)


@pytest.mark.parametrize("case", [MALFORMED[0], MALFORMED[2], MALFORMED[3], MALFORMED[4]], ids=str)
async def test_response_to_a_malformed_request_has_connection_close(server: Server, case: Malformed) -> None:
    async with connection(server.url) as wire:
        wire.writer.write(case.head)
        assert (await wire.answer())["Connection"] == "close"


@pytest.mark.parametrize(
    "head",
    [
        HEALTH + b"X: " + MAX_FIELD * b"x" + b"\r\n\r\n",
        b"GET /health?" + (MAX_TARGET - len("/health?")) * b"x" + b" HTTP/1.1\r\nHost: test\r\n\r\n",
        HEALTH + (MAX_FIELDS - 1) * b"X: 1\r\n" + b"\r\n",
    ],
    ids=["a field", "a URL", "many fields"],
)
async def test_request_at_the_limits_is_accepted(server: Server, head: bytes) -> None:
    async with connection(server.url) as wire:
        wire.writer.write(head)
        assert (await wire.answer()).status == 200
        await healthy(wire)


async def test_malformed_second_request_gets_a_problem(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with only_info_logged(caplog):
        async with connection(server.url) as wire:
            await healthy(wire)
            wire.writer.write(b"garbage\r\n\r\n")
            assert (await wire.answer()).status == 400
            assert await wire.rest() == b""


BAD_CHUNKS = request("POST", "/exports/csv", {"Transfer-Encoding": "chunked"})
CODED = request("POST", "/exports/csv", {"Content-Encoding": "gzip", "Content-Length": "5"})


@pytest.mark.parametrize(
    "sent",
    [
        BAD_CHUNKS + b"zz\r\n{}\r\n",
        BAD_CHUNKS + b"1\r\n{}\r\n0\r\n\r\n",
        CODED + b"hello",
    ],
    ids=["no chunk", "a chunk that is longer than it says", "no gzip"],
)
async def test_malformed_request_body_gets_400(server: Server, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    with only_info_logged(caplog):
        async with connection(server.url) as wire:
            wire.writer.write(sent)
            response = await wire.answer()
            assert (response.status, response["Content-Type"]) == (400, "application/problem+json")


UNFINISHED = BEGUN + (4000 - len(BEGUN)) * b"x"
ROOM = 16  # of these fit into the limit


SMALL_HEADS = ConnectionLimits(head_bytes=ROOM * 4000 + 500)


async def test_unfinished_heads_are_kept_up_to_the_limit_of_all_heads(serve: Serve) -> None:
    server = await serve(tuning=Tuning(connections=SMALL_HEADS))
    listener = server.listener
    async with AsyncExitStack() as stack:
        kept = []
        for number in range(1, 41):
            wire = await stack.enter_async_context(connection(server.url))
            wire.writer.write(UNFINISHED)

            async def taken(expected: int = 4000 * min(number, ROOM)) -> bool:
                return listener.connections.head_bytes == expected

            if number <= ROOM:
                kept.append(wire)
                await until(taken, "the head is not counted")
            else:
                await expect_refusal(wire)
                await until(taken, "a refused head is still counted")
        kept[0].writer.write(b"\r\n\r\n")
        assert (await kept[0].answer()).status == 200
    await server.empty()
    async with connection(server.url) as wire:
        await healthy(wire)


async def test_head_beyond_its_own_limit_gets_431(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Each field and their number are within their limits."""
    head = HEALTH + b"".join(b"X-%d: %b\r\n" % (number, 7000 * b"x") for number in range(20))
    with only_info_logged(caplog):
        async with connection(server.url) as wire:
            wire.writer.write(head)
            await is_refused_as(Malformed("a head", head, 431, f"more than {MAX_HEAD} bytes"), wire)
    await server.empty()


async def test_unfinished_heads_are_released_after_the_idle_timeout(serve: Serve) -> None:
    server = await serve(tuning=Tuning(connections=replace(SMALL_HEADS, idle_timeout=IDLE_TIMEOUT)))
    async with AsyncExitStack() as stack:
        for _ in range(ROOM):
            wire = await stack.enter_async_context(connection(server.url))
            wire.writer.write(UNFINISHED)
        await server.empty()
        async with connection(server.url) as wire:
            wire.writer.write(UNFINISHED + b"\r\n\r\n")
            assert (await wire.answer()).status == 200


async def test_connection_that_was_closed_as_idle_is_freed(impatient: Server) -> None:
    async with AsyncExitStack() as stack:
        for wire in [await stack.enter_async_context(connection(impatient.url)) for _ in range(20)]:
            assert await wire.rest() == b""
    await impatient.empty()
    gc.collect()
    transports = [found for found in gc.get_objects() if isinstance(found, asyncio.Transport)]
    address = urlsplit(impatient.url)
    ours = (address.hostname, address.port)
    left = [found for found in transports if found.get_extra_info("sockname") == ours]
    assert len(left) <= 1  # the last one that the loop has seen


REQUEST = HEALTH + b"X: " + 500 * b"x" + b"\r\n\r\n"


async def test_sequential_requests_hold_the_bytes_of_one_head(server: Server) -> None:
    async with connection(server.url) as wire:
        for _ in range(100):
            wire.writer.write(REQUEST)
            assert (await wire.answer()).status == 200
            assert server.listener.connections.head_bytes == len(REQUEST)
    await server.empty()


async def test_sequential_requests_in_pieces_hold_the_bytes_of_one_head(server: Server) -> None:
    async with connection(server.url) as wire:
        for cut in (1, 20, len(REQUEST) - 2):
            wire.writer.write(REQUEST[:cut])
            await server.has_heads(cut)
            wire.writer.write(REQUEST[cut:])
            assert (await wire.answer()).status == 200
            assert server.listener.connections.head_bytes == len(REQUEST)
    await server.empty()


async def test_pipelined_requests_are_counted_until_they_are_answered(server: Server) -> None:
    async with connection(server.url) as wire:
        for _ in range(50):
            wire.writer.write(3 * REQUEST)
            for _ in range(3):
                assert (await wire.answer()).status == 200
            assert 0 < server.listener.connections.head_bytes <= 3 * len(REQUEST)
    await server.empty()


async def test_any_number_of_requests_may_be_pipelined(server: Server) -> None:
    """They are read as they are answered: their heads together exceed the limit of a connection, but never at once."""
    async with connection(server.url) as wire:
        wire.writer.write(1000 * REQUEST)
        for _ in range(1000):
            assert (await wire.answer()).status == 200
    await server.empty()


async def test_unread_responses_fill_only_a_small_buffer(server: Server) -> None:
    """The next request is answered only when the client has read enough."""
    async with connection(server.url, receive=65536) as wire:
        with suppress(TimeoutError):
            while True:
                wire.writer.write(100 * REQUEST)
                async with asyncio.timeout(1):  # every buffer on the way is full when nothing moves for so long
                    await wire.writer.drain()
        (transport,) = server.listener.connections.send_timeout._watched

        def held() -> int:
            waiting = fcntl.ioctl(transport.get_extra_info("socket"), termios.TIOCOUTQ, bytes(4))
            return int.from_bytes(waiting, sys.byteorder)

        async def some() -> bool:
            return held() > 0

        await until(some, "no answer waits in the socket")
        assert held() <= 2 * MIN_QUOTA
    await server.empty()


async def test_request_bodies_are_not_counted_as_heads(server: Server) -> None:
    async with connection(server.url) as wire:
        for number in range(5):
            head = request("POST", "/exports/csv", {"Content-Length": "20000", "X": number * "x"})
            wire.writer.write(head)
            await server.has_heads(len(head))
            for _ in range(20):
                wire.writer.write(1000 * b" ")
                await asyncio.sleep(0)
            assert (await wire.answer()).status == 400
            assert server.listener.connections.head_bytes < 1000
        await healthy(wire)
    await server.empty()


async def test_refusal_is_never_sent_within_a_response_body(serve: Serve) -> None:
    server = await serve(tuning=Tuning(connections=ConnectionLimits(head_bytes=1000)))
    export = await server.held.completed(BULK)
    async with connection(server.url, receive=65536) as client:
        await client.send("GET", export.download)
        _, body = await client.begin()
        await body.grow_to(100_000)
        await client.send("GET", "/health", {"X": 1000 * "x"})
        await body.finish()
    intact = BULK.whole.startswith(body.received)
    assert intact


async def test_requests_pipelined_behind_a_download_do_not_exhaust_the_limit_of_heads(server: Server) -> None:
    """One client sends more than the limit of all heads, while its download lasts as long as the export."""
    export = await server.held.export(SMALL, at=1)
    behind = request("GET", "/health", {f"X-{number}": 7000 * "x" for number in range(60)})
    async with connection(server.url) as wire:
        await wire.send("GET", export.download)
        assert (await wire.begin())[0].status == 200
        with suppress(ConnectionError, TimeoutError):
            for _ in range(2 * HEADS_LIMIT // len(behind)):
                wire.writer.write(behind)
                async with asyncio.timeout(1):
                    await wire.writer.drain()
        assert (await ask(server.url, "GET", "/health")).status == 200
        assert server.listener.connections.head_bytes < HEADS_LIMIT / 2


async def test_body_that_is_too_large_does_not_exhaust_the_limit_of_heads(server: Server) -> None:
    """It is refused at once; the rest of it is read and dropped for a moment."""
    most, others = 0, set()
    async with connection(server.url) as wire:
        wire.writer.write(request("POST", "/exports/csv", {"Content-Length": "1000000000"}))
        answering = asyncio.create_task(wire.answer())
        with suppress(ConnectionError):
            for _ in range(16 * HEADS_LIMIT // 65536):
                wire.writer.write(bytes(65536))
                await wire.writer.drain()
                most = max(most, server.listener.connections.head_bytes)
        others.add((await ask(server.url, "GET", "/health")).status)
        assert (await answering).status == 413
    assert others == {200}
    assert most < HEADS_LIMIT / 2


async def test_send_timeout_of_a_month_is_accepted(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(download_stall_timeout=Duration(30 * 24 * 3600))
    with only_info_logged(caplog):
        assert (await ask(server.url, "GET", "/health")).status == 200


class Unread:
    """A connection whose client does not read, as the send timeout sees it."""

    def __init__(self, stack: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = stack.enter_context(socket.socket())
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.client.connect(listening.getsockname())
            self.ours = stack.enter_context(listening.accept()[0])
        self.ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.ours.send(bytes(65536))
        self.looks = 0

    @property
    def transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self)

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        self.looks += 1
        return self.ours

    def get_write_buffer_size(self) -> int:
        return 0

    def reset_by_client(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    @property
    def is_shut(self) -> bool:
        return self.ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED


@asynccontextmanager
async def watching(*watched: Unread, timeout: float) -> AsyncIterator[None]:
    watch = SendTimeout(timeout)
    for unread in watched:
        watch.add(unread.transport)
    running = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_reset_connection_does_not_end_the_checks_of_the_others() -> None:
    """Only the check notices the reset, while the client has sent more than is read, as behind a download."""
    with ExitStack() as stack:
        gone, silent = Unread(stack), Unread(stack)
        gone.reset_by_client()
        async with watching(gone, silent, timeout=0.2):
            await until(lambda: silent.is_shut, "the other connection is not shut down")


async def test_checks_with_a_send_timeout_of_zero_leave_the_event_loop_idle() -> None:
    with ExitStack() as stack:
        silent = Unread(stack)
        async with watching(silent, timeout=0.0):
            await asyncio.sleep(0.2)
        assert silent.looks < 100


STALLED = Duration(2)


@dataclass(frozen=True)
class Download:
    client: Connection
    body: Body


async def begin(
    stack: AsyncExitStack, export: HeldExport, *, receive: int | None = None, fields: Fields | None = None
) -> Download:
    client = await stack.enter_async_context(connection(export.held.url, receive=receive))
    await client.send("GET", export.download, fields)
    head, body = await client.begin()
    assert head.status == 200
    return Download(client, body)


async def test_client_that_stops_reading_is_disconnected_and_one_that_waits_for_rows_is_not(serve: Serve) -> None:
    """A completed, a live and a gzip body; and a follower that has read all bytes that exist."""
    server = await serve(download_stall_timeout=STALLED, max_downloads=4)
    clock = asyncio.get_running_loop().time
    sealed = await server.held.completed(BULK)
    live = await server.held.export(BULK, at=1)
    async with AsyncExitStack() as stack:
        waiting = await begin(stack, live)
        await waiting.body.grow_to(len(BULK.through(1)))
        waiting_since = clock()
        silent = [
            await begin(stack, sealed, receive=4096),
            await begin(stack, live, receive=4096),
            await begin(stack, sealed, receive=4096, fields={"Accept-Encoding": "gzip"}),
        ]
        assert (await ask(server.url, "HEAD", sealed.download)).status == 503
        await server.has_open(1)
        for _ in range(3):
            await begin(stack, sealed, receive=4096)
        assert (await ask(server.url, "HEAD", sealed.download)).status == 503
        for download in silent:
            assert await download.body.finish() is not End.WHOLE
        intact = [BULK.whole.startswith(download.body.received) for download in silent[:2]]
        assert all(intact)
        await asyncio.sleep(waiting_since + 2.5 * STALLED - clock())
        await server.held.open()
        same = await waiting.body.whole() == BULK.whole
        assert same


SIP = 20_000  # bytes
SIP_EVERY = 0.2  # seconds


async def test_slow_client_is_not_disconnected(serve: Serve) -> None:
    """The segments are as small as in a network: on the loopback a window may open by 64 kB at once."""
    server = await serve(download_stall_timeout=STALLED)
    loop = asyncio.get_running_loop()
    sealed = await server.held.completed(BULK)
    address = urlsplit(server.url)
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
        client.setblocking(False)
        await loop.sock_connect(client, (address.hostname, address.port))
        await loop.sock_sendall(client, request("GET", sealed.download, {}))
        taken = bytearray()
        for _ in range(round(3 * STALLED / SIP_EVERY)):
            taken += await loop.sock_recv(client, SIP)
            await asyncio.sleep(SIP_EVERY)
            assert server.listener.connections.count == 1, f"disconnected after {len(taken)} bytes were taken"
    _, _, body = taken.partition(b"\r\n\r\n")
    assert len(body) > 10 * SIP
    intact = BULK.whole.startswith(body)
    assert intact
