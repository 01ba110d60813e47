"""Content codings: the coding that is chosen, the bytes after decoding, the delay of a row, and the limit on making.

A coding is made once for all clients, into a file of its own with a length and a strong tag. What is said here of a
coding is said of gzip and of zstd.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from streamer.coding import COMPRESSED, Coding
from streamer.http.download.live import DownloadTimes
from streamer.server.tuning import Tuning
from tests.codings import Decoder, decoded, repr_digest, resource
from tests.exporting import saved_as
from tests.gates import Steps
from tests.held import BULK, SMALL, Held, HeldExport, lone_gated_server, until_stuck
from tests.polling import until
from tests.rawhttp import Answer, Connection, End, Fields, Head, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

GZIP = {"Accept-Encoding": "gzip"}
GZIP_ONLY = {"Accept-Encoding": "gzip, identity;q=0"}
STEP = 2
STREAM = f"/exports/csv?dataset={SMALL.name}"
MOMENT = 0.1  # seconds in which nothing may come


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    async with lone_gated_server(postgres, tmp_path_factory.mktemp("codings"), compressions=8) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sealed_small(server: Held) -> HeldExport:
    """An export whose codings are all at hand."""
    export = await server.completed(SMALL)
    for coding in COMPRESSED:
        await sealed(export, coding)
    return export


@pytest_asyncio.fixture(loop_scope="module")
async def held(server: Held) -> AsyncIterator[Held]:
    """The server. It has no work before and after the test."""
    yield server
    await server.settle()


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(postgres: str, tmp_path: Path) -> AsyncIterator[Held]:
    """A server that makes one coding at a time."""
    impatient = Tuning(downloads=DownloadTimes(compressed=1.0))
    async with lone_gated_server(postgres, tmp_path, compressions=1, tuning=impatient) as started:
        yield started


@pytest.fixture(params=COMPRESSED)
def coding(request: pytest.FixtureRequest) -> Coding:
    found: Coding = request.param
    return found


def accepting(coding: Coding, **others: str) -> dict[str, str]:
    return {"Accept-Encoding": coding, **{name.replace("_", "-"): value for name, value in others.items()}}


async def sealed(export: HeldExport, coding: Coding) -> Answer:
    """The coding of a completed export once it has a length, which is made if it is not there yet."""
    await ask(export.held.url, "HEAD", export.download, accepting(coding))
    answer = await ask(export.held.url, "GET", export.download, accepting(coding))
    assert (answer.status, answer["Content-Encoding"], int(answer["Content-Length"])) == (200, coding, len(answer.body))
    return answer


async def tag_of(export: HeldExport, coding: Coding) -> str:
    """The entity tag of a representation that exists, as the status tells it."""
    found: str = (await export.status())["representations"][coding]["etag"]
    return found


async def follow(client: Connection, export: HeldExport, coding: Coding = Coding.GZIP) -> Decoder:
    """Returns a download that has received all bytes that exist, and waits for more."""
    await client.send("GET", export.download, accepting(coding))
    head, body = await client.begin()
    assert (head.status, head["Content-Encoding"]) == (200, coding)
    decoder = Decoder(body, coding)
    frontier = int((await export.status())["progress"]["bytes"])
    assert await decoder.grow_to(frontier) == export.steps.whole[:frontier]
    return decoder


def check_headers(head: Head, coding: Coding, tag: str) -> None:
    assert head["Content-Encoding"] == coding
    assert head["ETag"] == tag
    assert head["Vary"] == "Accept-Encoding"
    assert head["Accept-Ranges"] == "bytes"
    assert head["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert saved_as().fullmatch(head["Content-Disposition"])
    assert not head.names & {"content-range", "last-modified"}


def steady_fields(head: Head) -> list[tuple[str, str]]:
    """Returns all fields but Date and what frames the body and the connection."""
    passing = ("date", "transfer-encoding", "connection")
    return sorted((name, value) for name, value in head.fields if name.lower() not in passing)


def digest_of(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()


# The bytes and the headers


@pytest.mark.parametrize("steps", [SMALL, BULK], ids=lambda steps: steps.name)
async def test_completed_export_decodes_to_its_bytes(held: Held, steps: Steps, coding: Coding) -> None:
    export = await held.completed(steps)
    async with connection(held.url) as client:
        await client.send("GET", export.download, accepting(coding))
        head, body = await client.begin()
        decoder = Decoder(body, coding)
        assert await decoder.finish() is End.WHOLE
        again = await sealed(export, coding)
        alike = await client.ask("HEAD", export.download, accepting(coding))
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(steps.whole)
    assert len(body.received) < len(steps.whole)
    assert digest_of(body.received) == digest_of(again.body), "it is made once"
    for each in (head, again.head, alike.head):
        check_headers(each, coding, await tag_of(export, coding))
    assert again["Repr-Digest"] == repr_digest(again.body)
    assert (alike.status, steady_fields(alike.head)) == (200, steady_fields(again.head))


@pytest.mark.parametrize("steps", [SMALL, BULK], ids=lambda steps: steps.name)
async def test_live_export_decodes_to_its_bytes_step_by_step(held: Held, steps: Steps, coding: Coding) -> None:
    export = await held.export(steps, at=1)
    async with connection(held.url) as client:
        await client.send("GET", export.download, accepting(coding))
        head, body = await client.begin()
        alike = await ask(held.url, "HEAD", export.download, accepting(coding))
        tag = await tag_of(export, coding)
        decoder = Decoder(body, coding)
        for step in range(1, steps.last):
            await held.open(step)
            there = steps.through(step)
            assert digest_of(await decoder.grow_to(len(there))) == digest_of(there)
        await held.open()
        assert await decoder.finish() is End.WHOLE
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(steps.whole)
    check_headers(head, coding, tag)
    assert head["Transfer-Encoding"] == "chunked"
    assert not head.names & {"content-length", "repr-digest"}
    assert (alike.status, steady_fields(alike.head)) == (200, steady_fields(head))
    await export.becomes("completed")
    after = await sealed(export, coding)
    assert (after["ETag"], digest_of(after.body)) == (tag, digest_of(body.received))


async def test_follower_that_joins_late_gets_the_same_bytes(held: Held, coding: Coding) -> None:
    export = await held.export(at=STEP)
    async with connection(held.url) as first, connection(held.url) as second:
        early = await follow(first, export, coding)
        await held.open(STEP + 1)
        await export.stands_at(STEP + 1)
        late = await follow(second, export, coding)
        await held.open()
        assert [await early.finish(), await late.finish()] == [End.WHOLE, End.WHOLE]
    assert digest_of(early.decoded) == digest_of(SMALL.whole)
    assert digest_of(early.body.received) == digest_of(late.body.received)


async def test_coding_and_file_of_its_own_are_the_same_bytes(held: Held, coding: Coding) -> None:
    export = await held.completed(SMALL)
    coded = await sealed(export, coding)
    file = await ask(held.url, "GET", resource(export.id, coding))
    assert (file.status, file["ETag"], file.get("Content-Encoding")) == (200, coded["ETag"], None)
    assert digest_of(file.body) == digest_of(coded.body)


async def test_new_export_is_streamed_in_the_coding(held: Held, coding: Coding) -> None:
    await held.open()
    async with connection(held.url) as client:
        await client.send("GET", STREAM, accepting(coding))
        head, body = await client.begin()
        decoder = Decoder(body, coding)
        assert await decoder.finish() is End.WHOLE
    export = HeldExport(held, SMALL, head["X-Export-Id"])
    assert (head.status, head["Content-Encoding"], head["ETag"]) == (200, coding, await tag_of(export, coding))
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
        ("br, compress, deflate", "identity"),
        ("br, zstd, deflate", "zstd"),
        ("ZSTD", "zstd"),
        ("zstd, gzip", "gzip"),
        ("zstd, gzip;q=0.9", "zstd"),
        ("zstd;q=0.5, gzip;q=0.4, identity;q=0.6", "identity"),
        ("zstd;q=0, gzip", "gzip"),
        ("zstd;q=0, *", "gzip"),
        ("identity;q=0, zstd;q=0.001", "zstd"),
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
        ("gzip;q=0, *", "zstd"),
        ("gzip;q=0, zstd;q=0, *", "identity"),
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
        ("gzip;q=0, zstd;q=0, identity;q=0", "406"),
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
    coding = None if sent == "identity" else sent
    assert (answer.status, answer.get("Content-Encoding"), head.get("Content-Encoding")) == (200, coding, coding)
    assert answer["Vary"] == head["Vary"] == "Accept-Encoding"
    assert digest_of(decoded(Coding(sent), answer.body)) == digest_of(SMALL.whole)


@pytest.mark.parametrize("accepted", ["gzip", "gzip, identity;q=0", "zstd", "identity;q=0, gzip;q=0", "*;q=0"])
async def test_range_without_the_tag_of_a_coding_is_of_identity(
    held: Held, sealed_small: HeldExport, accepted: str
) -> None:
    """A client that decodes while it downloads counts decoded bytes."""
    live = await held.export(at=STEP)
    for export, length in ((live, "*"), (sealed_small, str(len(SMALL.whole)))):
        for named in ({}, {"If-Range": export.etag}):
            fields = {"Range": "bytes=5-9", "Accept-Encoding": accepted, **named}
            answer = await ask(held.url, "GET", export.download, fields)
            assert (answer.status, answer["Content-Range"]) == (206, f"bytes 5-9/{length}")
            assert (answer["ETag"], answer.get("Content-Encoding")) == (export.etag, None)
            assert answer.body == SMALL.whole[5:10]


async def test_range_with_the_tag_of_a_coding_selects_from_it(held: Held, coding: Coding) -> None:
    export = await held.export(at=STEP)
    async with connection(held.url) as client:
        decoder = await follow(client, export, coding)
        fields = accepting(coding, Range="bytes=5-9", If_Range=await tag_of(export, coding))
        live = await ask(held.url, "GET", export.download, fields)
        await held.open()
        assert await decoder.finish() is End.WHOLE
    whole = bytes(decoder.body.received)
    late = await ask(held.url, "GET", export.download, fields)
    for answer, length in ((live, "*"), (late, str(len(whole)))):
        assert (answer.status, answer["Content-Range"]) == (206, f"bytes 5-9/{length}")
        check_coded_range(answer, coding, fields["If-Range"])
        assert answer.body == whole[5:10]
    rest = await ask(held.url, "GET", export.download, {**fields, "Range": f"bytes={len(whole) - 9}-"})
    assert (rest.status, rest.body) == (206, whole[-9:])
    beyond = await ask(held.url, "GET", export.download, {**fields, "Range": f"bytes={len(whole)}-"})
    assert (beyond.status, beyond["Content-Range"]) == (416, f"bytes */{len(whole)}")


def check_coded_range(answer: Answer, coding: Coding, tag: str) -> None:
    assert (answer["Content-Encoding"], answer["ETag"], answer["Vary"]) == (coding, tag, "Accept-Encoding")
    assert "Last-Modified" not in answer


async def test_tag_of_a_coding_that_is_not_acceptable_or_has_other_bytes_selects_no_range(
    sealed_small: HeldExport, coding: Coding
) -> None:
    tag = await tag_of(sealed_small, coding)
    other = f'{tag[:-1]}1"'
    for accepted, named in (("identity", tag), (coding, other), (coding, f"W/{tag}")):
        fields = {"Accept-Encoding": accepted, "Range": "bytes=5-9", "If-Range": named}
        answer = await ask(sealed_small.held.url, "GET", sealed_small.download, fields)
        assert answer.status == 200
        found = Coding(answer.get("Content-Encoding") or "identity")
        assert digest_of(decoded(found, answer.body)) == digest_of(SMALL.whole)


async def test_coding_of_live_and_completed_exports_has_its_own_strong_tag(held: Held, coding: Coding) -> None:
    export = await held.export(at=STEP)
    await ask(held.url, "HEAD", export.download, accepting(coding))
    tag = await tag_of(export, coding)
    for _ in ("live", "sealed"):
        for fields, status in (
            ({"If-None-Match": tag}, 304),
            ({"If-None-Match": f"W/{tag}"}, 304),
            ({"If-Match": export.etag}, 412),
            ({"If-Match": f"W/{tag}"}, 412),
        ):
            answer = await ask(held.url, "GET", export.download, {**accepting(coding), **fields})
            assert answer.status == status
            assert answer.get("ETag") == (tag if status == 304 else None)
        for fields in ({"If-None-Match": export.etag}, {"If-Match": tag}):
            answer = await ask(held.url, "HEAD", export.download, {**accepting(coding), **fields})
            assert (answer.status, answer["ETag"]) == (200, tag)
        await held.settle()


# In time


async def test_row_can_be_decoded_within_100_ms_of_its_publication(held: Held, coding: Coding) -> None:
    """The fastest of some rows counts: the machine may be busy, but a file that is not flushed is never in time.

    A row is published after the last status without it was requested.
    """
    loop = asyncio.get_running_loop()
    export = await held.export(at=1)
    delays = []
    async with connection(held.url) as client:
        decoder = await follow(client, export, coding)
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
async def test_export_that_fails_or_is_cancelled_leaves_its_coding_unfinished(
    held: Held, coding: Coding, end: str
) -> None:
    export = await held.export(at=STEP)
    async with connection(held.url) as client:
        decoder = await follow(client, export, coding)
        await (held.gates.refuse() if end == "failed" else export.cancel())
        assert await decoder.finish() is End.CLOSED
    assert not decoder.whole
    assert decoder.decoded == SMALL.through(STEP)
    assert (await ask(held.url, "GET", export.download, accepting(coding))).status == (409 if end == "failed" else 410)


async def test_stopping_server_leaves_its_coding_unfinished(narrow: Held, coding: Coding) -> None:
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        decoder = await follow(client, export, coding)
        await narrow.stop()
        assert await decoder.finish() is End.CLOSED
    assert not decoder.whole
    assert decoder.decoded == SMALL.through(STEP)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_clients_that_stop_reading_block_no_others_and_are_disconnected(
    held: Held, coding: Coding, end: str
) -> None:
    export = await held.export(BULK, at=1)
    there = len(BULK.through(1))
    async with AsyncExitStack() as connections:
        stalled = []
        for _ in range((os.cpu_count() or 1) + 2):  # more than there are threads
            client = await connections.enter_async_context(connection(held.url, receive=16_384))
            await client.send("GET", export.download, accepting(coding))
            head, body = await client.begin()
            assert head["Content-Encoding"] == coding
            await body.grow_to(1000)
            stalled.append(Decoder(body, coding))
        reading = await connections.enter_async_context(connection(held.url))
        decoder = await follow(reading, export, coding)
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


async def test_coded_download_of_a_deleted_export_is_whole(held: Held, coding: Coding) -> None:
    export = await held.completed(BULK)
    async with connection(held.url, receive=16_384) as client:
        await client.send("GET", export.download, accepting(coding))
        _, body = await client.begin()
        await body.grow_to(1000)
        await export.cancel()
        assert (await ask(held.url, "GET", export.download, accepting(coding))).status == 410
        decoder = Decoder(body, coding)
        assert await decoder.finish() is End.WHOLE
    assert decoder.whole
    assert digest_of(decoder.decoded) == digest_of(BULK.whole)


# One making at a time


async def is_free(export: HeldExport) -> bool:
    """Whether a completed export of which nothing was made can have a coding; it is made then."""
    return (await ask(export.held.url, "HEAD", export.download, GZIP)).get("Content-Encoding") == "gzip"


async def test_request_for_a_coding_gets_identity_or_503_while_all_places_are_taken(narrow: Held) -> None:
    other = await narrow.completed(SMALL)
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client, connection(narrow.url) as second:
        decoder = await follow(client, export)
        assert (await follow(second, export)).body.received, "whoever follows what is made needs no place"
        both = await ask(narrow.url, "HEAD", export.download, {"Accept-Encoding": "zstd, gzip"})
        assert both["Content-Encoding"] == "gzip", "the one at hand"
        for asked, fields in ((other, GZIP), (export, accepting(Coding.ZSTD))):
            head = await ask(narrow.url, "HEAD", asked.download, fields)
            assert (head.status, head.get("Content-Encoding"), head["ETag"]) == (200, None, asked.etag)
        for method in ("GET", "HEAD"):
            refused = await ask(narrow.url, method, other.download, GZIP_ONLY)
            assert (refused.status, int(refused["Retry-After"]) > 0) == (503, True)
        ranged = await ask(narrow.url, "GET", other.download, {**GZIP_ONLY, "Range": "bytes=0-4"})
        assert (ranged.status, ranged.body) == (206, SMALL.whole[:5])
        await narrow.open()
        assert await decoder.finish() is End.WHOLE
    await until(lambda: is_free(other), "the place is not released")
    answer = await ask(narrow.url, "GET", other.download, GZIP_ONLY)
    assert digest_of(decoded(Coding.GZIP, answer.body)) == digest_of(SMALL.whole)


async def test_file_of_its_own_waits_for_a_place_and_gets_503_if_there_is_none(narrow: Held) -> None:
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client, connection(narrow.url) as waiting:
        decoder = await follow(client, export)
        refused = await ask(narrow.url, "GET", resource(export.id, Coding.ZSTD))
        assert (refused.status, int(refused["Retry-After"]) > 0) == (503, True)
        await waiting.send("GET", resource(export.id, Coding.ZSTD))
        assert await waiting.silent(MOMENT)
        await narrow.open()
        assert await decoder.finish() is End.WHOLE
        answer = await waiting.answer()
    assert (answer.status, digest_of(decoded(Coding.ZSTD, answer.body))) == (200, digest_of(SMALL.whole))


async def test_new_export_that_accepts_only_gzip_gets_503_and_is_not_created(narrow: Held) -> None:
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        await follow(client, export)
        before = await narrow.exports()
        answer = await ask(narrow.url, "GET", STREAM, GZIP_ONLY)
        assert (answer.status, int(answer["Retry-After"]) > 0) == (503, True)
        assert await narrow.exports() == before


Finish = Callable[[Held, HeldExport], Awaitable[None]]


async def fail(held: Held, export: HeldExport) -> None:
    await held.gates.refuse()


async def cancel(held: Held, export: HeldExport) -> None:
    await export.cancel()


async def complete(held: Held, export: HeldExport) -> None:
    await held.open()


@pytest.mark.parametrize("finish", [fail, cancel, complete])
async def test_place_is_released_however_the_export_ends(narrow: Held, finish: Finish) -> None:
    other = await narrow.completed(SMALL)
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        await follow(client, export)
        assert not await is_free(other)
        await finish(narrow, export)
        await until(lambda: is_free(other), "the place is not released")


@pytest.mark.parametrize("finish", [fail, cancel, complete])
async def test_place_is_released_although_a_client_does_not_read(narrow: Held, finish: Finish) -> None:
    other = await narrow.completed(SMALL)
    export = await narrow.export(BULK, at=1)
    async with connection(narrow.url, receive=16_384) as client:
        await client.send("GET", export.download, GZIP)
        _, body = await client.begin()
        await body.grow_to(1000)
        assert not await is_free(other)
        await finish(narrow, export)
        await until(lambda: is_free(other), "the place is not released")


async def test_place_is_kept_when_the_client_leaves_and_the_next_one_follows_the_same_making(narrow: Held) -> None:
    other = await narrow.completed(SMALL)
    export = await narrow.export(at=STEP)
    async with connection(narrow.url) as client:
        first = await follow(client, export)
        client.vanish()
    assert not await is_free(other)
    async with connection(narrow.url) as client:
        second = await follow(client, export)
        await narrow.open()
        assert await second.finish() is End.WHOLE
    assert second.body.received.startswith(first.body.received)
    assert digest_of(second.decoded) == digest_of(SMALL.whole)


async def test_coding_of_a_completed_export_is_made_although_its_client_leaves(narrow: Held) -> None:
    export, other = await narrow.completed(BULK), await narrow.completed(SMALL)
    async with connection(narrow.url, receive=16_384) as client:
        await client.send("GET", export.download, GZIP)
        _, body = await client.begin()
        await body.grow_to(1000)
        client.vanish()
    await until(lambda: is_free(other), "the place is not released")
    assert (await export.status())["representations"]["gzip"]["state"] == "completed"
    assert (await sealed(export, Coding.GZIP)).body.startswith(body.received)


async def test_head_begins_a_making_that_a_download_follows(narrow: Held) -> None:
    export = await narrow.export(at=STEP)
    head = await ask(narrow.url, "HEAD", export.download, GZIP)
    assert (head.status, head["ETag"]) == (200, await tag_of(export, Coding.GZIP))
    async with connection(narrow.url) as client:
        decoder = await follow(client, export)
        await narrow.open()
        assert await decoder.finish() is End.WHOLE
    assert digest_of(decoder.decoded) == digest_of(SMALL.whole)


# HTTP/1.0


async def test_http_1_0_waits_for_the_end_of_the_coding(held: Held, coding: Coding) -> None:
    export = await held.export(at=STEP)
    fields = {"Accept-Encoding": f"{coding}, identity;q=0"}
    async with connection(held.url) as client:
        await client.send("GET", export.download, fields, version="1.0")
        assert await client.silent(MOMENT)
        await held.open()
        live = await client.answer()
    late = await ask(held.url, "GET", export.download, fields, version="1.0")
    for answer in (live, late):
        assert answer.status == 200
        check_headers(answer.head, coding, await tag_of(export, coding))
        assert int(answer["Content-Length"]) == len(answer.body)
        assert digest_of(decoded(coding, answer.body)) == digest_of(SMALL.whole)


async def test_http_1_0_gets_the_coding_of_a_completed_export_that_is_not_made_yet(held: Held, coding: Coding) -> None:
    export = await held.completed(BULK)
    answer = await ask(held.url, "GET", export.download, accepting(coding), version="1.0")
    assert (answer.status, answer["Content-Encoding"], int(answer["Content-Length"])) == (200, coding, len(answer.body))
    assert digest_of(decoded(coding, answer.body)) == digest_of(BULK.whole)


async def test_new_export_for_http_1_0_that_accepts_only_gzip_has_a_length(held: Held) -> None:
    await held.open()
    answer = await ask(held.url, "GET", STREAM, GZIP_ONLY, version="1.0")
    assert (answer.status, answer["Content-Encoding"], int(answer["Content-Length"])) == (200, "gzip", len(answer.body))
    assert digest_of(decoded(Coding.GZIP, answer.body)) == digest_of(SMALL.whole)


async def test_created_export_waits_for_a_place_that_another_one_took_meanwhile(postgres: str, tmp_path: Path) -> None:
    async with lone_gated_server(postgres, tmp_path, compressions=1, max_concurrent_exports=1) as held:
        running = await held.export(at=STEP)
        before = await held.exports()
        async with connection(held.url) as client, connection(held.url) as other:
            await client.send("GET", STREAM, GZIP_ONLY)

            async def begun() -> bool:
                return await held.exports() > before

            await until(begun, "the export is not begun")
            await follow(other, running)
            await held.open()
            answer = await client.answer()
        assert (answer.status, digest_of(decoded(Coding.GZIP, answer.body))) == (200, digest_of(SMALL.whole))
