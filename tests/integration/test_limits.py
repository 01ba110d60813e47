"""Limits on downloads and request bodies: what is refused beyond them, and that their memory is released.

The tests use the real server over real sockets. Memory is measured by tracemalloc, which counts every buffer of
Python; that of the client is included, and is small.
"""

import asyncio
import gc
import json
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import pytest
import pytest_asyncio

from streamer.http.api.parameters import MAX_SPEC
from streamer.http.api.request_bodies import BODIES_LIMIT, MAX_BODIES, MAX_BODY
from streamer.http.download.completed import MAX_COPIED, MAX_COPIED_BODY
from streamer.http.net.connection import ConnectionLimits
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.send_buffers import BUDGET
from streamer.server.tuning import Tuning
from streamer.source.catalog.filters import MAX_VALUES
from tests.held import (
    BULK,
    SMALL,
    Held,
    HeldExport,
    Serve,
    gated_servers,
    scratch_database,
    settled,
    until_stuck,
)
from tests.polling import until
from tests.rawhttp import Answer, Connection, ask, connection, request
from tests.unit.test_pagecache import resident

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[str]:
    async with scratch_database(postgres) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serve]:
    async with gated_servers(database, tmp_path_factory) as start:
        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def serve(servers: Serve) -> AsyncIterator[Serve]:
    async with settled(servers) as start:
        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def held(serve: Serve) -> Held:
    return await serve()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sealed(servers: Serve) -> HeldExport:
    """A completed export of 12 MB, on the server with the default settings."""
    return await (await servers()).completed(BULK)


def is_refused(answer: Answer, sentence: str) -> None:
    """Expects a 503 with Retry-After."""
    assert answer.status == 503
    assert answer["Content-Type"] == "application/problem+json"
    assert int(answer["Retry-After"]) > 0
    assert sentence in answer.json()["detail"]


async def status_of(held: Held, method: str, target: str) -> int:
    return (await ask(held.url, method, target)).status


async def begin(stack: AsyncExitStack, held: Held, target: str, *, receive: int | None = None) -> Connection:
    """Returns a client that has the head of a 200 and has not read the body."""
    client = await stack.enter_async_context(connection(held.url, receive=receive))
    await client.send("GET", target)
    head, _ = await client.begin()
    assert head.status == 200
    return client


async def is_free_again(held: Held, target: str) -> None:
    async def answered() -> bool:
        return await status_of(held, "HEAD", target) == 200

    await until(answered, "the slot of a download that has ended is not released")


async def test_slot_is_kept_until_the_client_has_read_the_queued_bytes(serve: Serve) -> None:
    """The whole body fits into the socket: a client that does not read would hold that memory without a slot."""
    held = await serve(max_downloads=1)
    export = await held.completed(BULK)
    async with connection(held.url, receive=4096) as client:
        await client.send("GET", export.download, {"Range": "bytes=0-999999"})
        head, body = await client.begin()
        assert head.status == 206
        await until_stuck(1)  # the server has written it, and waits for the client
        assert await status_of(held, "GET", export.download) == 503
        assert await body.whole() == BULK.whole[:1_000_000]
        await is_free_again(held, export.download)


async def test_download_beyond_the_limit_gets_503_with_retry_after(serve: Serve) -> None:
    held = await serve(max_downloads=2)
    export = await held.export(SMALL, at=1)
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(connection(held.url)) for _ in range(2)]
        bodies = []
        for follower in followers:
            await follower.send("GET", export.download)
            bodies.append((await follower.begin())[1])
        for _ in range(3):
            is_refused(await ask(held.url, "GET", export.download), "too many downloads")
        assert await status_of(held, "GET", f"/exports/{export.id}/status") == 200
        assert await status_of(held, "GET", "/health") == 200
        await held.open()
        assert [await body.whole() for body in bodies] == [SMALL.whole, SMALL.whole]
    assert (await ask(held.url, "GET", export.download)).body == SMALL.whole


async def test_refused_download_creates_no_export(serve: Serve) -> None:
    held = await serve(max_downloads=1)
    export = await held.export(SMALL, at=1)
    before = await held.exports()
    async with AsyncExitStack() as stack:
        await begin(stack, held, export.download)
        is_refused(await ask(held.url, "GET", f"/exports/csv?dataset={SMALL.name}"), "too many downloads")
    assert await held.exports() == before


async def test_refused_client_may_retry_on_its_connection(serve: Serve) -> None:
    held = await serve(max_downloads=1)
    export = await held.export(SMALL, at=1)
    async with AsyncExitStack() as stack, connection(held.url) as patient:
        await begin(stack, held, export.download)
        is_refused(await patient.ask("GET", export.download), "too many downloads")
        await held.open()
        await export.becomes("completed")
        await stack.aclose()
        await is_free_again(held, export.download)
        assert (await patient.ask("GET", export.download)).body == SMALL.whole


async def test_slot_of_a_client_that_vanishes_is_released(serve: Serve) -> None:
    held = await serve(max_downloads=1)
    live = await held.export(SMALL, at=1)
    async with connection(held.url) as follower:
        await follower.send("GET", live.download)
        await follower.begin()
        assert await status_of(held, "HEAD", live.download) == 503
        follower.vanish()
    await is_free_again(held, live.download)
    sealed = await held.completed(BULK)
    async with AsyncExitStack() as stack:
        client = await begin(stack, held, sealed.download, receive=4096)
        assert await status_of(held, "HEAD", sealed.download) == 503
        client.vanish()
        await is_free_again(held, sealed.download)


async def test_send_buffer_budget_is_released_however_downloads_end(serve: Serve) -> None:
    """Some are read to the end, some left, some broken off with their export; in both codings."""
    held = await serve(max_downloads=40)
    (slots,) = [found for found in gc.get_objects() if type(found) is DownloadSlots and found._capacity == 40]
    sealed = await held.completed(BULK)
    live = await held.export(BULK, at=1)
    async with AsyncExitStack() as stack:
        for number in range(36):
            path = live.download if number % 2 else sealed.download
            fields = {"Accept-Encoding": "gzip"} if number % 3 == 0 else None
            client = await stack.enter_async_context(connection(held.url, receive=4096))
            await client.send("GET", path, fields)
            await client.begin()
            if number in (6, 7, 8, 9):
                client.vanish()

        async def waiting() -> bool:
            return slots.free_budget < BUDGET / 2

        await until(waiting, "nothing is queued in the sockets of the clients")
        await live.cancel()
        assert (await ask(held.url, "GET", sealed.download)).body == BULK.whole

    async def whole() -> bool:
        return slots.free_budget == BUDGET

    await until(whole, f"{BUDGET - slots.free_budget} bytes of the budget are lost")


async def test_head_holds_a_slot_until_its_response(serve: Serve) -> None:
    """A HEAD for bytes beyond the frontier waits for them as a GET does."""
    held = await serve(max_downloads=1)
    export = await held.export(SMALL, at=1)
    beyond = len(SMALL.through(1)) + 10
    for _ in range(3):
        assert await status_of(held, "HEAD", export.download) == 200
    async with connection(held.url) as waiting:
        await waiting.send("HEAD", export.download, {"Range": f"bytes={beyond}-"})

        async def refused() -> bool:
            return await status_of(held, "HEAD", export.download) == 503

        await until(refused, "a HEAD that waits holds no slot")
        await held.open()
        assert (await waiting.answer("HEAD")).status == 206
    await is_free_again(held, export.download)


async def test_responses_without_a_body_release_their_slots(serve: Serve) -> None:
    held = await serve(max_downloads=1)
    export = await held.completed(BULK)
    gone = await held.export(SMALL, at=1)
    await gone.cancel()
    for _ in range(3):
        assert await status_of(held, "GET", "/exports/no-id/download") == 404
        assert await status_of(held, "GET", gone.download) == 410
        for fields, status in (({"Range": "bytes=99999999-"}, 416), ({"If-None-Match": export.etag}, 304)):
            assert (await ask(held.url, "GET", export.download, fields)).status == status
        assert await status_of(held, "GET", "/exports/csv?dataset=nothing") == 400
    assert (await ask(held.url, "GET", export.download)).body == BULK.whole


POST = f"/exports/csv?dataset={SMALL.name}"


@asynccontextmanager
async def posting(held: Held, body: bytes, *, length: int | None = None) -> AsyncIterator[Connection]:
    """Sends a request for an export with the first bytes of a body of `length` bytes, or all of it."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body) if length is None else length)}
    async with connection(held.url) as wire:
        wire.writer.write(request("POST", POST, fields) + body)
        yield wire


async def posted(held: Held, body: bytes) -> Answer:
    async with posting(held, body) as client:
        return await client.answer("POST")


async def accepts_bodies(held: Held) -> None:
    async def accepted() -> bool:
        return (await posted(held, b"{}")).status == 202

    await until(accepted, "bodies are no longer accepted")


async def test_request_body_beyond_the_limit_of_bodies_gets_503(held: Held) -> None:
    await held.open()
    async with AsyncExitStack() as stack:
        for _ in range(MAX_BODIES):
            await stack.enter_async_context(posting(held, b"{", length=1000))

        async def refused() -> bool:
            return (await posted(held, b"{}")).status == 503

        await until(refused, f"{MAX_BODIES} bodies are being read, and one more is too")
        is_refused(await posted(held, b"{}"), "too many request bodies")
        assert await status_of(held, "POST", POST) == 202
        assert await status_of(held, "GET", "/health") == 200
    await accepts_bodies(held)


async def test_request_bodies_beyond_the_limit_of_bytes_get_503(held: Held) -> None:
    await held.open()
    large = b" " * (MAX_BODY - 1)
    async with AsyncExitStack() as stack:
        for _ in range(BODIES_LIMIT // MAX_BODY):
            await stack.enter_async_context(posting(held, large, length=MAX_BODY))

        async def refused() -> bool:
            return (await posted(held, b"[" * 1000)).status == 503  # one that is read begins no export: 400

        await until(refused, f"{BODIES_LIMIT} bytes of bodies are being read, and more are too")
        is_refused(await posted(held, b"[" * 1000), f"more than {BODIES_LIMIT} bytes")
        assert await status_of(held, "POST", POST) == 202
    await accepts_bodies(held)


async def test_request_body_that_is_too_slow_gets_408_and_creates_no_export(serve: Serve) -> None:
    held = await serve(tuning=Tuning(body_timeout=0.3))
    await held.open()
    before = await held.exports()
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(posting(held, b"{", length=1000)) for _ in range(MAX_BODIES)]
        for client in slow:
            answer = await client.answer("POST")
            assert answer.status == 408
            assert answer["Content-Type"] == "application/problem+json"
            assert "within 0.3 s" in answer.json()["detail"]
        assert await held.exports() == before
        await accepts_bodies(held)


async def test_request_body_in_pieces_is_read_to_its_end(held: Held) -> None:
    await held.open()
    body = json.dumps({"columns": ["id"], "delimiter": ";"}).encode()
    async with connection(held.url) as wire:
        wire.writer.write(request("POST", POST, {"Content-Length": str(len(body)), "Content-Type": "application/json"}))
        for byte in body:
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        assert (await wire.begin())[0].status == 202


async def test_request_bodies_of_clients_that_leave_are_released(held: Held) -> None:
    await held.open()
    for _ in range(3):
        async with AsyncExitStack() as stack:
            for _ in range(MAX_BODIES):
                await stack.enter_async_context(posting(held, b"{", length=1000))
        await accepts_bodies(held)


@contextmanager
def growth() -> Iterator[list[int]]:
    """Measures the growth of the used memory in the context, in bytes."""
    grown: list[int] = []
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        yield grown
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "ranges",
    [
        f"bytes=0-{MAX_COPIED_BODY - 1}",
        f"bytes=0-{MAX_COPIED_BODY // 2 - 1000},5000000-{5000000 + MAX_COPIED_BODY // 2 - 1000}",
    ],
)
async def test_copied_body_is_freed_after_its_response(held: Held, sealed: HeldExport, ranges: str) -> None:
    """200 bodies of 256 kB would be 50 MB."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connection(held.url)) for _ in range(200)]
        for client in clients:
            assert (await client.ask("GET", "/health")).status == 200
        with growth() as grown:
            for client in clients:
                answer = await client.ask("GET", sealed.download, {"Range": ranges})
                assert answer.status == 206
                assert len(answer.body) >= MAX_COPIED_BODY - 2000
                del answer
        assert grown[0] < 5 * 1024 * 1024
        assert [(await client.ask("GET", "/health")).status for client in clients] == 200 * [200]


async def test_small_bodies_of_many_slow_clients_are_whole_whether_copied_or_not(
    held: Held, sealed: HeldExport
) -> None:
    """Together they exceed the limit of copied bodies; the rest is sent by sendfile."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(4 * MAX_COPIED // MAX_COPIED_BODY):
            client = await stack.enter_async_context(connection(held.url, receive=4096))
            await client.send(
                "GET", sealed.download, {"Range": f"bytes={number * 1000}-{number * 1000 + MAX_COPIED_BODY - 1}"}
            )
            clients.append(client)
        bodies = await asyncio.gather(*(client.answer("GET") for client in clients))
    whole = BULK.whole
    for number, answer in enumerate(bodies):
        same = answer.body == whole[number * 1000 : number * 1000 + MAX_COPIED_BODY]
        assert same, f"body {number} is another"


async def stuff(wire: Connection, piece: bytes, *, most: int = 16 * 1024 * 1024) -> None:
    """Sends the piece until the server takes no more, closes the connection, or has taken `most` bytes."""
    try:
        for _ in range(most // len(piece)):
            wire.writer.write(piece)
            async with asyncio.timeout(0.2):
                await wire.writer.drain()
    except (TimeoutError, ConnectionError):
        return


async def test_requests_pipelined_behind_a_download_hold_no_more_than_the_limit_of_heads(serve: Serve) -> None:
    held = await serve(tuning=Tuning(connections=ConnectionLimits(head_bytes=1024 * 1024)))
    export = await held.export(SMALL, at=1)
    behind = request("GET", "/health", {f"X-{number}": 7000 * "x" for number in range(60)})
    async with connection(held.url) as wire:
        wire.writer.transport.set_write_buffer_limits(0)
        await wire.send("GET", export.download)
        assert (await wire.begin())[0].status == 200
        with growth() as grown:
            await stuff(wire, behind)
    assert grown[0] < 4 * 1024 * 1024


async def test_download_with_a_request_body_gets_400(held: Held, sealed: HeldExport) -> None:
    async with connection(held.url) as wire:
        wire.writer.write(request("GET", sealed.download, {"Content-Length": "10"}) + b"0123456789")
        assert (await wire.begin())[0].status == 400


async def test_unread_request_bodies_hold_no_more_than_the_limit_of_bodies(held: Held) -> None:
    """The limit is 768 kB; three bodies of any size stay below it."""
    export = await held.export(SMALL, at=1)
    async with AsyncExitStack() as stack:
        with growth() as grown:
            for _ in range(3):
                wire = await stack.enter_async_context(connection(held.url))
                wire.writer.transport.set_write_buffer_limits(0)
                wire.writer.write(request("GET", export.download, {"Content-Length": "100000000"}))
                await wire.begin()
                await stuff(wire, 65536 * b"x")
    assert grown[0] < 1024 * 1024


async def test_queued_exports_do_not_hold_their_requests_in_memory(serve: Serve) -> None:
    held = await serve(max_concurrent_exports=1)
    longest = (MAX_SPEC - 1000) // MAX_VALUES - len('"",')
    values = [format(number, f"0{longest}x") for number in range(MAX_VALUES)]
    body = json.dumps({"text": values}, separators=(",", ":")).encode()
    await held.export(at=1)
    with growth() as grown:
        for _ in range(10):
            assert (await posted(held, body)).status == 202
    assert grown[0] < 10 * 64 * 1024


class Loads:
    """`os.posix_fadvise`, which records the threads that load a file, and lets them wait until the test opens it."""

    def __init__(self) -> None:
        self._advise = os.posix_fadvise
        self.threads: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def advise(self, fd: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            self.threads.append(threading.current_thread().name)
            assert self.open.wait(20), "the test has not opened the disk"
        self._advise(fd, offset, length, advice)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    loads = Loads()
    monkeypatch.setattr(os, "posix_fadvise", loads.advise)
    yield loads
    loads.open.set()


def drop_from_memory(held: Held, export: HeldExport) -> None:
    """Drops the pages of a sealed spool, which are on disk, from the page cache."""
    file = os.open(held.spool / f"{export.id}.csv", os.O_RDWR)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        if any(resident(file, len(BULK.whole))):
            pytest.skip("this file system keeps dropped pages")
    finally:
        os.close(file)


async def test_file_outside_of_the_page_cache_is_loaded_in_a_thread(
    held: Held, sealed: HeldExport, loads: Loads
) -> None:
    assert (await ask(held.url, "GET", sealed.download)).body == BULK.whole
    assert loads.threads == []
    drop_from_memory(held, sealed)
    same = (await ask(held.url, "GET", sealed.download)).body == BULK.whole
    assert same
    assert loads.threads
    assert all(name.startswith("read ahead") for name in loads.threads)


async def test_small_range_outside_of_the_page_cache_has_the_same_bytes(held: Held, sealed: HeldExport) -> None:
    for start in (0, 6_000_000, len(BULK.whole) - 1000):
        drop_from_memory(held, sealed)
        answer = await ask(held.url, "GET", sealed.download, {"Range": f"bytes={start}-{start + 999}"})
        assert answer.body == BULK.whole[start : start + 1000]


async def test_other_requests_are_answered_while_a_download_waits_for_the_disk(
    held: Held, sealed: HeldExport, loads: Loads
) -> None:
    drop_from_memory(held, sealed)
    loads.open.clear()
    async with connection(held.url) as client:
        await client.send("GET", sealed.download)
        _, body = await client.begin()

        async def loading() -> bool:
            return bool(loads.threads)

        await until(loading, "nothing is loaded")
        assert await status_of(held, "GET", "/health") == 200
        assert body.received == b""
        loads.open.set()
        same = await body.whole() == BULK.whole
        assert same


async def test_client_that_leaves_during_a_load_does_not_affect_other_downloads(
    held: Held, sealed: HeldExport, loads: Loads
) -> None:
    drop_from_memory(held, sealed)
    loads.open.clear()
    async with connection(held.url) as client:
        await client.send("GET", sealed.download)
        await client.begin()
        client.vanish()
    loads.open.set()
    same = (await ask(held.url, "GET", sealed.download)).body == BULK.whole
    assert same
