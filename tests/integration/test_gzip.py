"""gzip on the fly: the bytes after decoding, the headers, the delay of a row, and the limit on streams."""

import asyncio
import hashlib
import os
import shutil
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.exporting import SAVED_AS
from tests.gates import Steps
from tests.held import BULK, SMALL, Held, HeldExport, lone_gated_server, until_stuck
from tests.polling import until
from tests.rawhttp import Body, Connection, End, Fields, Head, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

GZIP = {"Accept-Encoding": "gzip"}
GZIP_ONLY = {"Accept-Encoding": "gzip, identity;q=0"}
STEP = 2
STREAM = f"/exports/csv?dataset={SMALL.name}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    async with lone_gated_server(postgres, tmp_path_factory.mktemp("gzip")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sealed_small(server: Held) -> HeldExport:
    return await server.completed(SMALL)


@pytest_asyncio.fixture(loop_scope="module")
async def held(server: Held) -> AsyncIterator[Held]:
    """The server. It has no work before and after the test."""
    yield server
    await server.settle()


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(postgres: str, tmp_path: Path) -> AsyncIterator[Held]:
    """A server with one gzip stream at a time."""
    async with lone_gated_server(postgres, tmp_path, compressions=1) as started:
        yield started


class Decoder:
    """Decodes a gzip body while it is received."""

    def __init__(self, body: Body) -> None:
        self.decoded = bytearray()
        self.body = body
        self._taken = 0
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def whole(self) -> bool:
        """Whether the gzip stream has ended with its checksum."""
        return self._inflate.eof and not self._inflate.unused_data

    async def grow_to(self, length: int) -> bytes:
        while len(self.decoded) < length:
            await self.body.grow_to(self._taken + 1)
            self._decode()
        return bytes(self.decoded[:length])

    async def finish(self) -> End:
        end = await self.body.finish()
        self._decode()
        return end

    def _decode(self) -> None:
        self.decoded += self._inflate.decompress(self.body.received[self._taken :])
        self._taken = len(self.body.received)


async def follow(client: Connection, export: HeldExport, fields: Fields = GZIP) -> Decoder:
    """Returns a gzip download that has received all bytes that exist, and waits for more."""
    await client.send("GET", export.download, fields)
    head, body = await client.begin()
    assert (head.status, head["Content-Encoding"]) == (200, "gzip")
    decoder = Decoder(body)
    frontier = int((await export.status())["progress"]["bytes"])
    assert await decoder.grow_to(frontier) == export.steps.whole[:frontier]
    return decoder


def check_headers(head: Head, export: HeldExport) -> None:
    assert head["Content-Encoding"] == "gzip"
    assert head["ETag"] == f'"{export.id}-gzip"'
    assert head["Vary"] == "Accept-Encoding"
    assert head["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert SAVED_AS.fullmatch(head["Content-Disposition"])
    assert not head.names & {"accept-ranges", "content-length", "content-range", "repr-digest"}


def digest_of(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()


# The bytes and the headers


@pytest.mark.parametrize("steps", [SMALL, BULK], ids=lambda steps: steps.name)
async def test_completed_export_decodes_to_its_bytes(held: Held, steps: Steps) -> None:
    export = await held.completed(steps)
    async with connection(held.url) as client:
        await client.send("GET", export.download, GZIP)
        head, body = await client.begin()
        decoder = Decoder(body)
        assert await decoder.finish() is End.WHOLE
        alike = await client.ask("HEAD", export.download, GZIP)
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(steps.whole)
    assert len(body.received) < len(steps.whole)
    check_headers(head, export)
    check_headers(alike.head, export)
    assert head["Last-Modified"] == alike["Last-Modified"]
    assert (head.status, head["Transfer-Encoding"]) == (200, "chunked")
    assert (alike.status, alike.head.names) == (200, head.names - {"transfer-encoding"})


@pytest.mark.parametrize("steps", [SMALL, BULK], ids=lambda steps: steps.name)
async def test_live_export_decodes_to_its_bytes_step_by_step(held: Held, steps: Steps) -> None:
    export = await held.export(steps, at=1)
    async with connection(held.url) as client:
        await client.send("GET", export.download, GZIP)
        head, body = await client.begin()
        alike = await ask(held.url, "HEAD", export.download, GZIP)
        decoder = Decoder(body)
        for step in range(1, steps.last):
            await held.open(step)
            there = steps.through(step)
            assert digest_of(await decoder.grow_to(len(there))) == digest_of(there)
        await held.open()
        assert await decoder.finish() is End.WHOLE
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(steps.whole)
    check_headers(head, export)
    check_headers(alike.head, export)
    assert "Last-Modified" not in head
    assert (alike.status, alike.head.names - {"connection"}) == (200, head.names - {"transfer-encoding"})


async def test_follower_that_joins_late_decodes_the_same_bytes(held: Held) -> None:
    export = await held.export(at=STEP)
    async with connection(held.url) as first, connection(held.url) as second:
        early = await follow(first, export)
        await held.open(STEP + 1)
        await export.stands_at(STEP + 1)
        late = await follow(second, export)
        await held.open()
        assert [await early.finish(), await late.finish()] == [End.WHOLE, End.WHOLE]
    assert digest_of(early.decoded) == digest_of(late.decoded) == digest_of(SMALL.whole)


async def test_new_export_is_streamed_as_gzip(held: Held) -> None:
    await held.open()
    async with connection(held.url) as client:
        await client.send("GET", STREAM, GZIP)
        head, body = await client.begin()
        decoder = Decoder(body)
        assert await decoder.finish() is End.WHOLE
    assert (head.status, head["Content-Encoding"], head["ETag"]) == (200, "gzip", f'"{head["X-Export-Id"]}-gzip"')
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(SMALL.whole)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_compressed_gets_the_bytes_of_live_and_completed_exports(held: Held) -> None:
    export = await held.export(at=STEP)
    live = await curl(held.url + export.download)
    assert live.stdout
    async with asyncio.timeout(20):
        begun = await live.stdout.readexactly(len(SMALL.through(STEP)))  # the rest is still in the database
        await held.open()
        rest, _ = await live.communicate()
        whole, _ = await (await curl(held.url + export.download)).communicate()
    assert live.returncode == 0
    assert digest_of(begun + rest) == digest_of(whole) == digest_of(SMALL.whole)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_compressed_fails_when_the_export_does(held: Held) -> None:
    export = await held.export(at=STEP)
    live = await curl(held.url + export.download)
    assert live.stdout
    async with asyncio.timeout(20):
        await live.stdout.readexactly(len(SMALL.through(STEP)))
        await held.gates.refuse()
        rest, _ = await live.communicate()
    assert (live.returncode, rest) == (18, b"")  # 18: a partial file


async def curl(url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("curl", "-sSN", "--compressed", url, stdout=asyncio.subprocess.PIPE)


# Negotiation


@pytest.mark.parametrize(
    ("accepted", "sent"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("X-GZIP;Q=0.5", "gzip"),
        ("identity", "identity"),
        ("gzip, identity", "gzip"),
        ("identity, gzip", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip;q=1.0, *;q=0.5", "gzip"),
        ("br", "identity"),
        ("br, zstd, deflate", "identity"),
        ("gzip;q=0.8, identity;q=0.5", "gzip"),
        ("gzip;q=0.5, identity;q=0.8", "identity"),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("gzip;q=0.5", "gzip"),
        ("gzip;q=0.001", "gzip"),
        ("gzip ; q=1 , br", "gzip"),
        ("gzip\t;\tq=1.000", "gzip"),
        (",gzip,,", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.0", "identity"),
        ("gzip;q=0.000", "identity"),
        ("gzip;q=0, br", "identity"),
        ("x-gzip;q=0", "identity"),
        ("*", "gzip"),
        ("*;q=0.1", "gzip"),
        ("gzip;q=0, *", "identity"),
        ("identity, *;q=0", "identity"),
        ("identity;q=0.5, *;q=0.1", "identity"),
        ("gzip, *;q=0", "gzip"),
        ("identity;q=0, *", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("identity;q=0.0, x-gzip", "gzip"),
        # What is not of the form is passed over.
        ("gzip;q=1.001", "identity"),
        ("gzip;q=2", "identity"),
        ("gzip;q=-1", "identity"),
        ("gzip;q=.5", "identity"),
        ("gzip;q=high", "identity"),
        ("gzip;level=9", "identity"),
        ("gzip/1.0", "identity"),
        ("pack200-gzip", "identity"),
        # In two lines.
        (("br", "gzip"), "gzip"),
        (("gzip;q=0", "identity;q=0"), "406"),
        # Nothing is left.
        ("*;q=0", "406"),
        ("identity;q=0", "406"),
        ("gzip;q=0, identity;q=0", "406"),
        ("gzip;q=0, *;q=0", "406"),
        ("br, identity;q=0", "406"),
        ("identity;q=0.000, gzip;q=0.000", "406"),
    ],
)
async def test_coding_is_negotiated(
    sealed_small: HeldExport, accepted: str | tuple[str, ...] | None, sent: str
) -> None:
    url, download = sealed_small.held.url, sealed_small.download
    fields: Fields = {} if accepted is None else {"Accept-Encoding": accepted}
    answer = await ask(url, "GET", download, fields)
    head = await ask(url, "HEAD", download, fields)
    assert head.status == answer.status
    if sent == "406":
        assert (answer.status, answer.json()["status"]) == (406, 406)
        return
    coding = "gzip" if sent == "gzip" else None
    assert (answer.status, answer.get("Content-Encoding"), head.get("Content-Encoding")) == (200, coding, coding)
    assert answer["Vary"] == head["Vary"] == "Accept-Encoding"
    body = zlib.decompress(answer.body, wbits=31) if coding else answer.body
    assert digest_of(body) == digest_of(SMALL.whole)


@pytest.mark.parametrize("accepted", ["gzip", "gzip, identity;q=0", "identity;q=0, gzip;q=0", "*;q=0"])
async def test_range_is_always_of_identity(held: Held, sealed_small: HeldExport, accepted: str) -> None:
    live = await held.export(at=STEP)
    for export, length in ((live, "*"), (sealed_small, str(len(SMALL.whole)))):
        answer = await ask(held.url, "GET", export.download, {"Range": "bytes=5-9", "Accept-Encoding": accepted})
        assert (answer.status, answer["Content-Range"]) == (206, f"bytes 5-9/{length}")
        assert (answer["ETag"], answer.get("Content-Encoding")) == (export.etag, None)
        assert answer.body == SMALL.whole[5:10]


async def test_gzip_of_live_and_completed_exports_has_its_own_strong_tag(held: Held) -> None:
    export = await held.export(at=STEP)
    tag = f'"{export.id}-gzip"'
    for _ in ("live", "sealed"):
        for fields, status in (
            ({"If-None-Match": tag}, 304),
            ({"If-None-Match": f"W/{tag}"}, 304),
            ({"If-Match": export.etag}, 412),
            ({"If-Match": f"W/{tag}"}, 412),
        ):
            answer = await ask(held.url, "GET", export.download, {**GZIP, **fields})
            assert answer.status == status
            assert answer.get("ETag") == (tag if status == 304 else None)
        for fields in ({"If-None-Match": export.etag}, {"If-Match": tag}):
            answer = await ask(held.url, "HEAD", export.download, {**GZIP, **fields})
            assert (answer.status, answer["ETag"]) == (200, tag)
        await held.settle()


# In time


async def test_row_can_be_decoded_within_100_ms_of_its_publication(held: Held) -> None:
    """The fastest of some rows counts: the machine may be busy, but a stream that is not flushed is never in time.

    A row is published after the last status without it was requested.
    """
    loop = asyncio.get_running_loop()
    export = await held.export(at=1)
    delays = []
    async with connection(held.url) as client:
        decoder = await follow(client, export)
        for step in range(2, SMALL.last):
            frontier = len(SMALL.through(step))
            decoded = asyncio.create_task(moment_of(decoder, frontier))
            unpublished = loop.time()
            await held.open(step)
            while (asked := loop.time()) and (await export.status())["progress"]["bytes"] < frontier:
                unpublished = asked
            delays.append(await decoded - unpublished)
        await held.open()
        assert await decoder.finish() is End.WHOLE
    assert min(delays) < 0.1
    assert digest_of(decoder.decoded) == digest_of(SMALL.whole)


async def moment_of(decoder: Decoder, length: int) -> float:
    await decoder.grow_to(length)
    return asyncio.get_running_loop().time()


# Bad ends


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_export_that_fails_or_is_cancelled_leaves_its_gzip_stream_unfinished(held: Held, end: str) -> None:
    export = await held.export(at=STEP)
    async with connection(held.url) as client:
        decoder = await follow(client, export)
        await (held.gates.refuse() if end == "failed" else export.cancel())
        assert await decoder.finish() is End.CLOSED
    assert not decoder.whole
    assert decoder.decoded == SMALL.through(STEP)
    assert (await ask(held.url, "GET", export.download, GZIP)).status == (409 if end == "failed" else 410)


async def test_stopping_server_leaves_its_gzip_stream_unfinished(narrow: Held) -> None:
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        decoder = await follow(client, export)
        await narrow.stop()
        assert await decoder.finish() is End.CLOSED
    assert not decoder.whole
    assert decoder.decoded == SMALL.through(STEP)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_clients_that_stop_reading_block_no_others_and_are_disconnected(held: Held, end: str) -> None:
    export = await held.export(BULK, at=1)
    there = len(BULK.through(1))
    async with AsyncExitStack() as connections:
        stalled = []
        for _ in range((os.cpu_count() or 1) + 2):  # more than there are threads
            client = await connections.enter_async_context(connection(held.url, receive=16_384))
            await client.send("GET", export.download, GZIP)
            head, body = await client.begin()
            assert head["Content-Encoding"] == "gzip"
            await body.grow_to(1000)
            stalled.append(Decoder(body))
        reading = await connections.enter_async_context(connection(held.url))
        decoder = await follow(reading, export)
        assert digest_of(decoder.decoded) == digest_of(BULK.through(1))
        await held.open(2)
        assert await decoder.grow_to(len(BULK.through(2))) == BULK.through(2)
        await until_stuck(len(stalled))
        await (held.gates.refuse() if end == "failed" else export.cancel())
        assert await decoder.finish() is End.CLOSED
        assert [await each.finish() for each in stalled] == [End.CLOSED] * len(stalled)
    for each in stalled:
        assert not each.whole
        assert len(each.decoded) < there
        assert each.decoded == BULK.whole[: len(each.decoded)]


async def test_gzip_download_of_a_deleted_export_is_whole(held: Held) -> None:
    export = await held.completed(BULK)
    async with connection(held.url, receive=16_384) as client:
        await client.send("GET", export.download, GZIP)
        _, body = await client.begin()
        await body.grow_to(1000)
        await export.cancel()
        assert (await ask(held.url, "GET", export.download, GZIP)).status == 410
        decoder = Decoder(body)
        assert await decoder.finish() is End.WHOLE
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(BULK.whole)


# One stream at a time


async def is_free(export: HeldExport) -> bool:
    """Returns the coding that GET would get; a HEAD takes no stream."""
    return (await ask(export.held.url, "HEAD", export.download, GZIP)).get("Content-Encoding") == "gzip"


async def test_request_for_gzip_gets_identity_or_503_while_all_streams_are_taken(narrow: Held) -> None:
    export = await narrow.export(at=STEP)
    assert await is_free(export)
    async with connection(narrow.url) as client, connection(narrow.url) as second:
        decoder = await follow(client, export)
        await second.send("GET", export.download, GZIP)
        head, body = await second.begin()
        assert (head.status, head.get("Content-Encoding"), head["ETag"]) == (200, None, export.etag)
        for method in ("GET", "HEAD"):
            refused = await ask(narrow.url, method, export.download, GZIP_ONLY)
            assert (refused.status, int(refused["Retry-After"]) > 0) == (503, True)
        ranged = await ask(narrow.url, "GET", export.download, {**GZIP_ONLY, "Range": "bytes=0-4"})
        assert (ranged.status, ranged.body) == (206, SMALL.whole[:5])
        await narrow.open()
        assert await decoder.finish() is End.WHOLE
        assert digest_of(await body.whole()) == digest_of(SMALL.whole)
    await until(lambda: is_free(export), "the stream is not released")
    answer = await ask(narrow.url, "GET", export.download, GZIP_ONLY)
    assert digest_of(zlib.decompress(answer.body, wbits=31)) == digest_of(SMALL.whole)


async def test_new_export_that_accepts_only_gzip_gets_503_and_is_not_created(narrow: Held) -> None:
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        await follow(client, export)
        before = await narrow.exports()
        answer = await ask(narrow.url, "GET", STREAM, GZIP_ONLY)
        assert (answer.status, int(answer["Retry-After"]) > 0) == (503, True)
        assert await narrow.exports() == before


Leave = Callable[[Held, HeldExport, Connection], Awaitable[None]]


async def fail(held: Held, export: HeldExport, client: Connection) -> None:
    await held.gates.refuse()


async def cancel(held: Held, export: HeldExport, client: Connection) -> None:
    await export.cancel()


async def vanish(held: Held, export: HeldExport, client: Connection) -> None:
    client.vanish()


@pytest.mark.parametrize("leave", [fail, cancel, vanish])
async def test_stream_is_released_however_a_follower_ends(narrow: Held, leave: Leave) -> None:
    other = await narrow.completed(SMALL)
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        await follow(client, export)
        assert not await is_free(other)
        await leave(narrow, export, client)
        await until(lambda: is_free(other), "the stream is not released")


@pytest.mark.parametrize("leave", [fail, cancel, vanish])
async def test_stream_of_a_client_that_does_not_read_is_released_when_it_leaves(narrow: Held, leave: Leave) -> None:
    other = await narrow.completed(SMALL)
    export = await narrow.export(BULK, at=1)
    async with connection(narrow.url, receive=16_384) as client:
        await client.send("GET", export.download, GZIP)
        _, body = await client.begin()
        await body.grow_to(1000)
        assert not await is_free(other)
        await leave(narrow, export, client)
        await until(lambda: is_free(other), "the stream is not released")


async def test_stream_is_released_when_the_client_of_a_completed_export_leaves(narrow: Held) -> None:
    export = await narrow.completed(BULK)
    async with connection(narrow.url, receive=16_384) as client:
        await client.send("GET", export.download, GZIP)
        _, body = await client.begin()
        await body.grow_to(1000)
        assert not await is_free(export)
        client.vanish()
        await until(lambda: is_free(export), "the stream is not released")


async def test_responses_without_a_body_take_no_stream(narrow: Held) -> None:
    live = await narrow.export(at=STEP)
    for _ in ("live", "sealed"):
        for method, fields in (("HEAD", {}), ("GET", {"If-None-Match": "*"}), ("GET", {"If-Match": '"x"'})):
            for _ in range(3):
                await ask(narrow.url, method, live.download, {**GZIP, **fields})
                assert await is_free(live)
        await narrow.settle()


async def test_http_1_0_that_accepts_only_gzip_gets_406(sealed_small: HeldExport) -> None:
    answer = await ask(sealed_small.held.url, "GET", sealed_small.download, GZIP_ONLY, version="1.0")
    assert answer.status == 406


async def test_new_export_for_http_1_0_that_accepts_only_gzip_is_not_created(held: Held) -> None:
    await held.open()
    before = await held.exports()
    answer = await ask(held.url, "GET", STREAM, GZIP_ONLY, version="1.0")
    assert (answer.status, await held.exports()) == (406, before)


async def test_created_export_keeps_the_stream_that_it_has_taken(postgres: str, tmp_path: Path) -> None:
    async with lone_gated_server(postgres, tmp_path, compressions=1, max_concurrent_exports=1) as held:
        running = await held.export(at=STEP)
        before = await held.exports()
        async with connection(held.url) as client, connection(held.url) as other:
            await client.send("GET", STREAM, GZIP_ONLY)

            async def begun() -> bool:
                return await held.exports() > before

            await until(begun, "the export is not begun")
            await other.send("GET", running.download, GZIP)
            head, _ = await client.begin()
        assert head.status == 200
