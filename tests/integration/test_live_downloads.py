"""Downloads of live representations, over real sockets: the table of the API, row by row.

A representation is the CSV of an export, or one of its compressed files as a resource of its own: the table holds for
each word for word.

Each export is held at a known frontier and continued step by step, so that every test knows which bytes exist at which
time.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

import pytest
import pytest_asyncio

from streamer.coding import COMPRESSED, Coding
from streamer.http.download.live import DownloadTimes
from streamer.server.tuning import Tuning
from tests.codings import media_type
from tests.exporting import saved_as
from tests.held import (
    BULK,
    SMALL,
    Held,
    HeldExport,
    gated_server,
    lone_gated_server,
    scratch_database,
)
from tests.integration.following import Followed, files, represented, standing
from tests.polling import PATIENCE, until
from tests.proxy import proxied
from tests.rawhttp import Body, Connection, End, Fields, Head, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP = 2  # where the exports of the table stand
MOMENT = 0.1  # seconds in which nothing may come
OTHER = '"another"'
ETAG = "{etag}"
FUTURE = "Fri, 25 Feb 2174 09:42:23 GMT"
PAST = "Mon, 28 Sep 1970 06:00:00 GMT"
OPEN_END = 9007199254740991  # RFC 8673


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    async with lone_gated_server(postgres, tmp_path_factory.mktemp("live")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def held(server: Held) -> AsyncIterator[Held]:
    """The server. It has no work before and after the test."""
    yield server
    await server.settle()


class Lengths(NamedTuple):
    """The frontier when a response begins, the next one, and the length in the end."""

    F: int
    G: int
    T: int


LENGTHS = {
    coding: Lengths(*(len(files(coding, SMALL)[step]) for step in (STEP, STEP + 1, SMALL.last))) for coding in Coding
}


@pytest.fixture(params=Coding)
def coding(request: pytest.FixtureRequest) -> Coding:
    found: Coding = request.param
    return found


@pytest_asyncio.fixture(loop_scope="module")
async def export(held: Held, coding: Coding) -> Followed:
    """A representation that waits at the frontier F."""
    return await standing(held, SMALL, coding, at=STEP)


@pytest.fixture
def lengths(coding: Coding) -> Lengths:
    return LENGTHS[coding]


@dataclass(frozen=True)
class Row:
    """A request, and its response: the status, Content-Range, and the bytes of the export in its body."""

    fields: Fields
    status: int = 200
    content_range: str | None = None
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return " ".join(f"{name}={value}"[:70] for name, value in self.fields.items()) or "nothing"

    def of(self, export: Followed) -> Fields:
        return {name: str(value).replace("{etag}", export.etag) for name, value in self.fields.items()}


Table = Callable[[Lengths], Sequence[Row]]


def each_row(table: Table) -> pytest.MarkDecorator:
    """Parametrises with the rows for every representation."""
    rows = [(coding, row) for coding in Coding for row in table(LENGTHS[coding])]
    return pytest.mark.parametrize(("coding", "row"), rows, ids=str)


def ranged(text: str, **more: str) -> dict[str, str]:
    return {"Range": text, **{name.replace("_", "-"): value for name, value in more.items()}}


def at_once(at: Lengths) -> Sequence[Row]:
    return (
        # Inside the frontier.
        Row(ranged("bytes=0-0"), 206, "bytes 0-0/*", 0, 1),
        Row(ranged("bytes=0-4"), 206, "bytes 0-4/*", 0, 5),
        Row(ranged("BYTES=3-7"), 206, "bytes 3-7/*", 3, 8),
        Row(ranged("bytes=,5-9,"), 206, "bytes 5-9/*", 5, 10),
        Row(ranged(f"bytes=0-{at.F - 1}"), 206, f"bytes 0-{at.F - 1}/*", 0, at.F),
        Row(ranged(f"bytes=5-{at.F - 1}"), 206, f"bytes 5-{at.F - 1}/*", 5, at.F),
        Row(ranged(f"bytes={at.F - 1}-{at.F - 1}"), 206, f"bytes {at.F - 1}-{at.F - 1}/*", at.F - 1, at.F),
        Row(ranged("bytes=5-9", If_Range=ETAG), 206, "bytes 5-9/*", 5, 10),
        Row(ranged("bytes=5-9", If_Match=ETAG), 206, "bytes 5-9/*", 5, 10),
        Row(ranged("bytes=5-9", If_None_Match=OTHER), 206, "bytes 5-9/*", 5, 10),
        Row(ranged("bytes=5-9", Accept_Encoding="gzip"), 206, "bytes 5-9/*", 5, 10),
        # The tag is known before the length is, and goes before every range, also one that would have to wait.
        Row({"If-None-Match": ETAG}, 304),
        Row({"If-None-Match": f"W/{ETAG}"}, 304),
        Row({"If-None-Match": "*"}, 304),
        Row({"If-None-Match": f"{OTHER}, {ETAG}"}, 304),
        Row(ranged("bytes=5-9", If_None_Match=ETAG), 304),
        Row(ranged(f"bytes={at.T + 5}-", If_None_Match=ETAG), 304),
        Row({"If-Match": OTHER}, 412),
        Row({"If-Match": f"W/{ETAG}"}, 412),
        Row({"If-Match": OTHER, "If-None-Match": ETAG}, 412),
        Row(ranged("bytes=5-9", If_Match=OTHER), 412),
        Row(ranged(f"bytes={at.T + 5}-", If_Match=OTHER), 412),
    )


@each_row(at_once)
async def test_request_within_the_frontier_is_answered_at_once(export: Followed, row: Row) -> None:
    async with connection(export.held.url) as client:
        answer = await client.ask("GET", export.download, row.of(export))
        head = await client.ask("HEAD", export.download, row.of(export))
    assert answer.status == row.status
    assert answer.get("Content-Range") == row.content_range
    if row.status == 412:
        assert answer.json()["status"] == 412
    elif row.status == 304:
        assert answer.head.names == {"cache-control", "date", "etag", "server"} | varying(export.coding)
    else:
        check_representation(answer.head, export)
        assert int(answer["Content-Length"]) == len(answer.body)
    if row.status in (206, 304):
        assert digest_of(answer.body) == digest_of(export.whole[row.start : row.stop or 0])
        assert answer["ETag"] == export.etag
    assert (head.status, head.body, steady_fields(head.head)) == (row.status, b"", steady_fields(answer.head))


def followed(at: Lengths) -> Sequence[Row]:
    return (
        Row({}),
        # Open ranges.
        Row(ranged("bytes=0-"), 206, f"bytes 0-{OPEN_END}/*"),
        Row(ranged("bytes=5-"), 206, f"bytes 5-{OPEN_END}/*", 5),
        Row(ranged(f"bytes={at.F - 1}-"), 206, f"bytes {at.F - 1}-{OPEN_END}/*", at.F - 1),
        Row(ranged("bytes=5-", If_Match=ETAG), 206, f"bytes 5-{OPEN_END}/*", 5),
        Row(ranged("bytes=5-", If_None_Match=OTHER), 206, f"bytes 5-{OPEN_END}/*", 5),
        Row(ranged("bytes=5-", Accept_Encoding="gzip"), 206, f"bytes 5-{OPEN_END}/*", 5),
        # Bounded beyond the frontier: the client's own last position, whether it will ever exist or not.
        Row(ranged(f"bytes=0-{at.F}"), 206, f"bytes 0-{at.F}/*", 0, at.F + 1),
        Row(ranged(f"bytes={at.F - 1}-{at.F + 9}"), 206, f"bytes {at.F - 1}-{at.F + 9}/*", at.F - 1, at.F + 10),
        Row(ranged(f"bytes=5-{at.G - 1}"), 206, f"bytes 5-{at.G - 1}/*", 5, at.G),
        Row(ranged(f"bytes=5-{at.G}"), 206, f"bytes 5-{at.G}/*", 5, at.G + 1),
        Row(ranged(f"bytes=5-{at.T - 1}"), 206, f"bytes 5-{at.T - 1}/*", 5, at.T),
        Row(ranged(f"bytes=5-{at.T}"), 206, f"bytes 5-{at.T}/*", 5),
        Row(ranged("bytes=0-999999999999"), 206, "bytes 0-999999999999/*"),
        Row(ranged(f"bytes=5-{OPEN_END}"), 206, f"bytes 5-{OPEN_END}/*", 5),
        Row(ranged("bytes=5-18446744073709551616"), 206, "bytes 5-18446744073709551616/*", 5),
        Row(ranged(f"bytes=5-{'9' * 4000}"), 206, f"bytes 5-{'9' * 4000}/*", 5),
        Row(ranged(f"bytes=5-{at.F + 9}", If_Range=ETAG), 206, f"bytes 5-{at.F + 9}/*", 5, at.F + 10),
        # With If-Range an open range comes from a browser, which cannot read its answer.
        Row(ranged("bytes=0-", If_Range=ETAG)),
        Row(ranged("bytes=5-", If_Range=ETAG)),
        Row(ranged("bytes=5-", If_Range=OTHER)),
        Row(ranged("bytes=5-", If_Range=FUTURE)),
        Row(ranged(f"bytes={at.F + 5}-", If_Range=ETAG)),
        # An If-Range that does not hold, or names a date: there is none yet.
        Row(ranged("bytes=5-9", If_Range=OTHER)),
        Row(ranged("bytes=5-9", If_Range=f"W/{ETAG}")),
        Row(ranged("bytes=5-9", If_Range=FUTURE)),
        Row(ranged("bytes=5-9", If_Range=PAST)),
        Row(ranged("bytes=5-9", If_Range="wrong")),
        Row(ranged("bytes=5-9", If_Range="")),
        Row(ranged(f"bytes={at.F + 5}-{at.F + 9}", If_Range=OTHER)),
        # Ranges that nothing can be said of yet, and what is no range.
        Row(ranged("bytes=-5")),
        Row(ranged("bytes=-0")),
        Row(ranged("bytes=0-1,3-4")),
        Row(ranged("bytes=0-4,5-9")),
        Row(ranged(f"bytes=0-4,{at.T}-")),
        Row(ranged("bytes=0-,5-")),
        Row(ranged("items=0-4")),
        Row(ranged("bytes=7-1")),
        Row(ranged("bytes=x")),
        Row(ranged(f"bytes=5-{'9' * 5000}")),  # too long to be repeated
        Row(ranged("bytes=5")),
        Row(ranged("bytes=")),
        Row(ranged("")),
        # Preconditions that hold, and dates, of which there is none to compare with.
        Row({"If-Match": ETAG}),
        Row({"If-Match": "*"}),
        Row({"If-None-Match": OTHER}),
        Row({"If-Modified-Since": FUTURE}),
        Row({"If-Unmodified-Since": PAST}),
        Row({"If-Range": ETAG}),
    )


@each_row(followed)
async def test_request_beyond_the_frontier_is_followed(export: Followed, row: Row) -> None:
    held, whole = export.held, export.whole
    async with connection(held.url) as client, connection(held.url) as other:
        await client.send("GET", export.download, row.of(export))
        head, body = await client.begin()
        alike = await other.ask("HEAD", export.download, row.of(export))
        assert (head.status, head.get("Content-Range")) == (row.status, row.content_range)
        assert head["Transfer-Encoding"] == "chunked"
        check_representation(head, export)
        without_framing = [field for field in steady_fields(head) if field[0] != "Transfer-Encoding"]
        assert (alike.status, steady_fields(alike.head)) == (row.status, without_framing)
        for step in (STEP, STEP + 1):
            await held.open(step)
            await export.stands_at(step)
            there = export.through(step)[row.start : row.stop]
            assert await body.grow_to(len(there)) == there
        if row.stop is not None and row.stop <= LENGTHS[export.coding].G:
            assert await body.finish() is End.WHOLE  # although the export goes on
        await held.open()
        assert digest_of(await body.whole()) == digest_of(whole[row.start : row.stop])
        after = await client.ask("HEAD", export.download)
        assert (after.status, after["ETag"]) == (200, head["ETag"])


def waiting(at: Lengths) -> Sequence[Row]:
    return (
        Row(ranged(f"bytes={at.F}-"), 206, f"bytes {at.F}-{OPEN_END}/*", at.F),
        Row(ranged(f"bytes={at.F}-{at.F}"), 206, f"bytes {at.F}-{at.F}/*", at.F, at.F + 1),
        Row(ranged(f"bytes={at.F + 3}-{at.F + 9}"), 206, f"bytes {at.F + 3}-{at.F + 9}/*", at.F + 3, at.F + 10),
        Row(
            ranged(f"bytes={at.F + 3}-{at.F + 9}", If_Range=ETAG),
            206,
            f"bytes {at.F + 3}-{at.F + 9}/*",
            at.F + 3,
            at.F + 10,
        ),
        Row(ranged(f"bytes={at.G - 1}-"), 206, f"bytes {at.G - 1}-{OPEN_END}/*", at.G - 1),
        Row(ranged(f"bytes={at.F}-{at.T + 5}"), 206, f"bytes {at.F}-{at.T + 5}/*", at.F),
    )


@each_row(waiting)
async def test_range_beyond_the_frontier_waits_for_its_first_byte(export: Followed, row: Row) -> None:
    held, whole = export.held, export.whole
    async with connection(held.url) as client, connection(held.url) as other:
        await client.send("GET", export.download, row.of(export))
        await other.send("HEAD", export.download, row.of(export))
        assert await silent(client, other)
        await held.open(STEP + 1)
        head, body = await client.begin()
        assert (head.status, head["Content-Range"]) == (row.status, row.content_range)
        assert (await other.answer("HEAD"))["Content-Range"] == row.content_range
        there = export.through(STEP + 1)[row.start : row.stop]
        assert await body.grow_to(len(there)) == there
        await held.open()
        assert digest_of(await body.whole()) == digest_of(whole[row.start : row.stop])
    check_representation(head, export)


async def test_range_far_beyond_the_frontier_waits_while_the_frontier_moves(export: Followed, lengths: Lengths) -> None:
    held, whole = export.held, export.whole
    async with connection(held.url) as client:
        await client.send("GET", export.download, {"Range": f"bytes={lengths.G}-"})
        await held.open(STEP + 1)
        await export.stands_at(STEP + 1)
        assert await silent(client)
        await held.open(STEP + 2)
        head, body = await client.begin()
        assert (head.status, head["Content-Range"]) == (206, f"bytes {lengths.G}-{OPEN_END}/*")
        await held.open()
        assert digest_of(await body.whole()) == digest_of(whole[lengths.G :])


@pytest.mark.parametrize("form", ["bytes={0}-", "bytes={0}-{1}", "bytes={1}-", "bytes=999999999999999999999-"])
async def test_export_that_ends_before_the_range_gets_416(export: Followed, lengths: Lengths, form: str) -> None:
    text = form.format(lengths.T, lengths.T + 9)
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, {"Range": text})
        await other.send("HEAD", export.download, {"Range": text})
        assert await silent(client, other)
        await export.held.open()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
    assert (answer.status, answer["Content-Range"], answer.json()["status"]) == (416, f"bytes */{lengths.T}", 416)
    assert (head.status, head["Content-Range"]) == (416, f"bytes */{lengths.T}")


async def test_export_that_fails_while_a_range_waits_gets_409_with_the_reason(
    export: Followed, lengths: Lengths
) -> None:
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, {"Range": f"bytes={lengths.F}-"})
        await other.send("HEAD", export.download, {"Range": f"bytes={lengths.F}-{lengths.F + 9}"})
        assert await silent(client, other)
        await export.held.gates.refuse()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
    assert (answer.status, head.status) == (409, 409)
    assert "canceling statement due to user request" in answer.json()["detail"]


async def test_export_that_is_cancelled_while_a_range_waits_gets_410(export: Followed, lengths: Lengths) -> None:
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, {"Range": f"bytes={lengths.F}-"})
        await other.send("HEAD", export.download, {"Range": f"bytes={lengths.F}-{lengths.F + 9}"})
        assert await silent(client, other)
        await export.cancel()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
    assert (answer.status, head.status) == (410, 410)


# HTTP/1.0


def of_http_1_0(at: Lengths) -> Sequence[Row]:
    return (
        Row({}, 200, None, 0, at.T),
        Row({"Range": "bytes=5-"}, 206, f"bytes 5-{at.T - 1}/{at.T}", 5, at.T),
        Row({"Range": "bytes=5-9"}, 206, f"bytes 5-9/{at.T}", 5, 10),
        Row({"Range": "bytes=-5"}, 206, f"bytes {at.T - 5}-{at.T - 1}/{at.T}", at.T - 5, at.T),
        Row({"Range": f"bytes={at.T}-"}, 416, f"bytes */{at.T}"),
        Row({"If-None-Match": "*"}, 304, None, 0, 0),
    )


@each_row(of_http_1_0)
async def test_http_1_0_waits_for_the_end_and_gets_a_length(export: Followed, row: Row) -> None:
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, row.fields, version="1.0")
        await other.send("HEAD", export.download, row.fields, version="1.0")
        assert await silent(client, other)
        await export.held.open()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
        assert await client.ended()
        assert await other.ended()
    assert (answer.status, answer.get("Content-Range")) == (row.status, row.content_range)
    assert (head.status, steady_fields(head.head)) == (row.status, steady_fields(answer.head))
    if row.status != 416:
        assert digest_of(answer.body) == digest_of(export.whole[row.start : row.stop])


async def test_http_1_0_gets_the_status_of_a_failure_and_of_a_cancellation(held: Held, coding: Coding) -> None:
    for end, status in ((held.gates.refuse, 409), (None, 410)):
        export = await standing(held, SMALL, coding, at=STEP)
        async with connection(held.url) as client:
            await client.send("GET", export.download, version="1.0")
            assert await silent(client)
            await (end or export.cancel)()
            assert (await client.answer("GET")).status == status


# Parameters


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 200), ({"Range": "bytes=0-4"}, 206), ({"Range": "bytes=999999-"}, 416), ({"If-None-Match": "*"}, 304)],
)
async def test_live_false_gets_425_until_the_export_is_finished(
    export: Followed, fields: Fields, status: int, method: str
) -> None:
    early = await ask(export.held.url, method, f"{export.download}?live=false", fields)
    assert (early.status, int(early["Retry-After"]) > 0) == (425, True)
    await export.held.open()

    async def answered() -> bool:
        late = await ask(export.held.url, method, f"{export.download}?live=false", fields)
        assert late.status in (425, status)
        return late.status == status

    await until(answered, "live=false stays 425")


async def test_export_whose_status_is_completed_never_gets_425(postgres: str, tmp_path: Path) -> None:
    """Between the update of the row and the seal, status and download agree."""
    async with (
        scratch_database(postgres) as database,
        proxied(database) as proxy,
        gated_server(database, tmp_path, database_url=proxy.url) as held,
    ):
        export = await held.export(at=STEP)
        proxy.hold_answer_to("SET state = 'completed'")
        await held.open()
        async with asyncio.timeout(PATIENCE):
            await proxy.holding.wait()
        await until(lambda: row_is_completed(held), "the row does not become completed")
        status = asyncio.create_task(export.status())
        await asyncio.wait({status}, timeout=MOMENT)  # it may also answer later, when the spool is sealed
        said = status.result()["status"] if status.done() else "nothing"
        answer = await ask(held.url, "HEAD", f"{export.download}?live=false")
        proxy.release()
        assert (await status)["status"] in ("processing", "completed")
        await export.becomes("completed")
        assert (said, answer.status) != ("completed", 425)


async def row_is_completed(held: Held) -> bool:
    """Whether the only export is, in the table."""
    return bool(await held.gates.connection.fetchval("SELECT state = 'completed' FROM streamer.exports"))


async def test_live_false_gets_425_over_http_1_0(export: Followed) -> None:
    assert (await ask(export.held.url, "GET", f"{export.download}?live=false", version="1.0")).status == 425


@pytest.mark.parametrize("query", ["live=maybe", "live=", "live=1", "live=True", "live=true&live=true"])
async def test_live_must_be_true_or_false_once(export: Followed, query: str) -> None:
    answer = await ask(export.held.url, "GET", f"{export.download}?{query}")
    assert (answer.status, answer.json()["parameter"]) == (400, "live")
    assert (await ask(export.held.url, "HEAD", f"{export.download}?{query}")).status == 400


async def test_live_true_follows_with_the_requested_filename(export: Followed) -> None:
    async with connection(export.held.url) as client:
        await client.send("GET", f"{export.download}?live=true&filename=users.csv")
        head, body = await client.begin()
        assert (head.status, head["Content-Disposition"]) == (200, 'attachment; filename="users.csv"')
        await export.held.open()
        assert digest_of(await body.whole()) == digest_of(export.whole)


# Ends

ENDLESS = [{}, {"Range": "bytes=5-"}, {"Range": "bytes=5-999999"}]


@pytest.mark.parametrize("fields", ENDLESS)
async def test_failed_export_ends_its_downloads_without_a_final_chunk(export: Followed, fields: Fields) -> None:
    async with connection(export.held.url) as client:
        body = await follow(client, export, fields)
        await export.held.gates.refuse()
        assert await body.finish() is End.CLOSED
    assert body.received == export.through(STEP)[5 if fields else 0 :]
    failed = await ask(export.held.url, "GET", export.download, fields)
    assert failed.status == 409
    assert "canceling statement due to user request" in failed.json()["detail"]
    assert (await export.status())["status"] == "failed"


@pytest.mark.parametrize("fields", ENDLESS)
async def test_cancelled_export_ends_its_downloads_without_a_final_chunk(export: Followed, fields: Fields) -> None:
    async with connection(export.held.url) as client:
        body = await follow(client, export, fields)
        await export.cancel()
        assert await body.finish() is End.CLOSED
    assert body.received == export.through(STEP)[5 if fields else 0 :]
    assert (await ask(export.held.url, "GET", export.download, fields)).status == 410
    assert (await export.status())["status"] == "cancelled"


async def test_stopping_server_ends_its_downloads_without_a_final_chunk(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    async with scratch_database(postgres) as database:
        async with gated_server(database, tmp_path) as held:
            export = await standing(held, SMALL, coding, at=STEP)
            async with (
                connection(held.url) as first,
                connection(held.url) as second,
                connection(held.url) as waiting,
                connection(held.url) as old,
            ):
                bodies = [await follow(first, export, {}), await follow(second, export, {"Range": "bytes=5-"})]
                await waiting.send("GET", export.download, {"Range": f"bytes={LENGTHS[coding].F}-"})
                await old.send("GET", export.download, version="1.0")
                assert await silent(waiting, old)
                await held.stop()
                assert [await body.finish() for body in bodies] == [End.CLOSED, End.CLOSED]
                # A compressed file ends before its export does, whose row says one or the other meanwhile.
                refusals = {409} if coding is Coding.IDENTITY else {409, 503}
                assert {(await client.answer("GET")).status for client in (waiting, old)} <= refusals
            assert bodies[0].received == export.through(STEP)
            assert bodies[1].received == export.through(STEP)[5:]
        async with gated_server(database, tmp_path) as again:
            answer = await ask(again.url, "GET", export.download)
            assert answer.status == 409
            assert "stopped" in answer.json()["detail"]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_slow_client_is_disconnected_when_the_export_fails_or_is_cancelled(
    held: Held, coding: Coding, end: str
) -> None:
    """Also if its range existed in full: the rest of it belongs to no valid export."""
    export = await standing(held, BULK, coding, at=1)
    frontier = len(export.through(1))
    slow = [
        {},
        {"Range": "bytes=5-"},
        {"Range": f"bytes=0-{frontier - 1}"},  # all of it is there: the body has a length
        {"Range": f"bytes=0-{frontier + 9}"},
    ]
    async with (
        connection(held.url, receive=16_384) as first,
        connection(held.url, receive=16_384) as second,
        connection(held.url, receive=16_384) as third,
        connection(held.url, receive=16_384) as fourth,
        connection(held.url) as quick,
    ):
        bodies: list[Body] = []
        for client, fields in zip((first, second, third, fourth), slow, strict=True):
            await client.send("GET", export.download, fields)
            _, body = await client.begin()
            await body.grow_to(1000)
            bodies.append(body)
        reading = await follow(quick, export, {})
        await (held.gates.refuse() if end == "failed" else export.cancel())
        assert await reading.finish() is End.CLOSED
        assert [await body.finish() for body in bodies] == [End.CLOSED, End.CLOSED, End.RESET, End.CLOSED]
    assert digest_of(reading.received) == digest_of(export.through(1))
    for body, fields in zip(bodies, slow, strict=True):
        start = 5 if fields.get("Range") == "bytes=5-" else 0
        assert len(body.received) < frontier - start
        assert body.received == export.whole[start : start + len(body.received)]


async def test_clients_that_join_and_leave_at_any_time_get_the_same_bytes(held: Held, coding: Coding) -> None:
    export = await standing(held, SMALL, coding, at=1)
    digest = digest_of(export.whole)
    async with asyncio.TaskGroup() as readers:
        found = []
        for step in range(1, SMALL.last):
            await held.open(step)
            await export.stands_at(step)
            found.append(readers.create_task(read_whole(export)))
            async with connection(held.url) as leaving:
                await follow(leaving, export, {})
                leaving.vanish()
        await held.open()
    assert [task.result() for task in found] == [digest] * (SMALL.last - 1)
    assert digest_of((await ask(held.url, "GET", export.download)).body) == digest


async def test_broken_download_is_resumed_while_the_export_grows(export: Followed) -> None:
    async with connection(export.held.url) as client:
        body = await follow(client, export, {})
        client.vanish()
    have = bytes(body.received)
    async with connection(export.held.url) as client:
        await client.send("GET", export.download, {"Range": f"bytes={len(have)}-"})
        await export.held.open()
        head, body = await client.begin()
        assert head.status == 206
        assert digest_of(have + await body.whole()) == digest_of(export.whole)


async def test_tag_is_the_same_from_the_first_byte_to_the_sealed_file(held: Held, coding: Coding) -> None:
    export = await standing(held, SMALL, coding, at=1)
    tags = set()
    for step in range(1, SMALL.last):
        await held.open(step)
        await export.stands_at(step)
        tags.add((await ask(held.url, "HEAD", export.download))["ETag"])
        tags.add((await ask(held.url, "GET", export.download, {"Range": "bytes=0-4"}))["ETag"])
    await held.open()
    await export.becomes("completed")
    tags.add((await ask(held.url, "HEAD", export.download))["ETag"])
    tags.add((await ask(held.url, "GET", export.download, {"Range": "bytes=0-4"}))["ETag"])
    assert tags == {export.etag}


async def test_queued_export_is_followed(postgres: str, tmp_path: Path, coding: Coding) -> None:
    async with lone_gated_server(postgres, tmp_path, max_concurrent_exports=1) as held:
        running = await held.export(at=STEP)
        created = (await ask(held.url, "POST", f"/exports/csv?dataset={SMALL.name}")).json()
        queued = await represented(HeldExport(held, SMALL, created["exportId"]), coding)
        assert (await queued.status())["status"] == "pending"
        assert (await ask(held.url, "GET", f"{queued.download}?live=false")).status == 425
        async with connection(held.url) as client, connection(held.url) as waiting:
            await client.send("GET", queued.download)
            await waiting.send("GET", queued.download, {"Range": "bytes=0-4"})
            head, body = await client.begin()
            assert (head.status, head["ETag"]) == (200, queued.etag)
            assert await silent(client, waiting)
            await held.open()
            assert digest_of(await body.whole()) == digest_of(queued.whole)
            assert (await waiting.answer("GET")).body == queued.whole[:5]
        await running.becomes("completed")


async def test_export_that_is_cancelled_in_the_queue_breaks_its_downloads(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    async with lone_gated_server(postgres, tmp_path, max_concurrent_exports=1) as held:
        await held.export(at=STEP)
        created = (await ask(held.url, "POST", f"/exports/csv?dataset={SMALL.name}")).json()
        queued = await represented(HeldExport(held, SMALL, created["exportId"]), coding)
        async with connection(held.url) as client, connection(held.url) as waiting:
            await client.send("GET", queued.download)
            await waiting.send("GET", queued.download, {"Range": "bytes=0-4"})
            _, body = await client.begin()
            await queued.cancel()
            assert (await body.finish(), len(body.received)) == (End.CLOSED, 0)
            assert (await waiting.answer("GET")).status == 410


# GET /exports/csv

STREAM = f"/exports/csv?dataset={SMALL.name}"


async def test_new_export_is_streamed_and_then_found_at_its_content_location(held: Held) -> None:
    await held.shut()
    await held.open(STEP)
    async with connection(held.url) as client:
        await client.send("GET", STREAM)
        head, body = await client.begin()
        export = HeldExport(held, SMALL, head["X-Export-Id"])
        assert (head.status, head["Transfer-Encoding"]) == (200, "chunked")
        assert urljoin(STREAM, head["Content-Location"]) == export.download
        check_representation(head, await represented(export, Coding.IDENTITY))
        assert await body.grow_to(LENGTHS[Coding.IDENTITY].F) == SMALL.through(STEP)
        await held.open()
        assert digest_of(await body.whole()) == digest_of(SMALL.whole)
        sealed = await client.ask("GET", urljoin(STREAM, head["Content-Location"]))
    assert (sealed.status, sealed["ETag"]) == (200, head["ETag"])
    assert digest_of(sealed.body) == digest_of(SMALL.whole)


async def test_stream_whose_client_left_is_resumed_at_its_content_location(held: Held) -> None:
    await held.shut()
    await held.open(STEP)
    async with connection(held.url) as client:
        await client.send("GET", STREAM)
        head, body = await client.begin()
        have = await body.grow_to(LENGTHS[Coding.IDENTITY].F)
        client.vanish()
    async with connection(held.url) as client:
        await client.send("GET", urljoin(STREAM, head["Content-Location"]), {"Range": f"bytes={len(have)}-"})
        await held.open()
        rest = await client.answer("GET")
    assert rest.status == 206
    assert digest_of(have + rest.body) == digest_of(SMALL.whole)


@pytest.mark.parametrize(
    "fields",
    [
        {"Range": "bytes=0-"},
        {"Range": "bytes=0-4"},
        {"Range": "bytes=-5"},
        {"Range": "bytes=5-9,20-29"},
        {"Range": "items=5-"},
        {"Range": "bytes=7-1"},
        {"If-None-Match": "*"},
        {"If-Match": OTHER},
        {"If-Unmodified-Since": PAST},
    ],
)
async def test_validators_and_ranges_of_a_new_export_are_ignored(held: Held, fields: Fields) -> None:
    await held.open()
    answer = await ask(held.url, "GET", STREAM, fields)
    assert answer.status == 200
    assert "Content-Range" not in answer
    assert digest_of(answer.body) == digest_of(SMALL.whole)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Range": "bytes=5-"}, 400),
        ({"Range": "bytes=1-4"}, 400),
        ({"Range": "bytes=5-", "If-Range": OTHER}, 400),
        ({"Range": f"bytes={OPEN_END}-"}, 400),
        ({"Accept-Encoding": "identity;q=0, gzip;q=0"}, 406),
        ({"Accept-Encoding": "*;q=0"}, 406),
        ({"Accept-Encoding": "br, identity;q=0"}, 406),
    ],
)
async def test_request_that_a_new_export_cannot_answer_creates_none(
    held: Held, method: str, fields: Fields, status: int
) -> None:
    before, files = await held.exports(), sorted(held.spool.iterdir())
    answer = await ask(held.url, method, STREAM, fields)
    assert answer.status == status
    assert (await held.exports(), sorted(held.spool.iterdir())) == (before, files)
    if method == "GET" and status == 400:
        assert answer.json()["parameter"] == "Range"
        assert "Range" in answer.json()["detail"]


async def test_head_of_a_new_export_creates_none(held: Held) -> None:
    before = await held.exports()
    answer = await ask(held.url, "HEAD", STREAM)
    assert (answer.status, answer["Vary"]) == (200, "Accept-Encoding")
    assert answer["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert await held.exports() == before


async def test_new_export_over_http_1_0_has_a_length(held: Held) -> None:
    await held.shut()
    async with connection(held.url) as client:
        await client.send("GET", STREAM, version="1.0")
        assert await silent(client)
        await held.open()
        answer = await client.answer("GET")
    assert (answer.status, int(answer["Content-Length"])) == (200, len(SMALL.whole))
    assert answer["Content-Location"] == f"{answer['X-Export-Id']}/download"
    assert digest_of(answer.body) == digest_of(SMALL.whole)


async def test_dropped_relation_gets_400_and_creates_no_export(postgres: str, tmp_path: Path) -> None:
    async with lone_gated_server(postgres, tmp_path) as held:
        await held.gates.connection.execute(f"DROP VIEW {SMALL.name}")
        answer = await ask(held.url, "GET", STREAM)
        assert answer.status == 400
        assert f"there is no dataset '{SMALL.name}'" in answer.json()["detail"]
        assert "X-Export-Id" not in answer


async def test_new_export_whose_first_row_fails_gets_409_with_the_reason(postgres: str, tmp_path: Path) -> None:
    """The headers of the download wait for that row as long as it takes."""
    patient = Tuning(downloads=DownloadTimes(first_rows=PATIENCE))
    async with lone_gated_server(postgres, tmp_path, tuning=patient) as held:
        await held.shut()
        async with connection(held.url) as client:
            await client.send("GET", STREAM)
            await held.gates.refuse()
            head, _ = await client.begin()
        assert head.status == 409


async def follow(client: Connection, export: Followed, fields: Fields) -> Body:
    """Returns a download that has received all bytes that exist, and waits for more."""
    await client.send("GET", export.download, fields)
    _, body = await client.begin()
    there = (await export.there())[5 if "Range" in fields else 0 :]
    assert await body.grow_to(len(there)) == there
    return body


async def read_whole(export: Followed) -> str:
    return digest_of((await ask(export.held.url, "GET", export.download)).body)


async def silent(*clients: Connection) -> bool:
    """Returns whether no request gets a response for a moment."""
    return all(await asyncio.gather(*(client.silent(MOMENT) for client in clients)))


def varying(coding: Coding) -> set[str]:
    """A compressed file is the only representation of its resource."""
    return set() if coding in COMPRESSED else {"vary"}


def check_representation(head: Head, export: Followed) -> None:
    assert head["ETag"] == export.etag
    assert head["Accept-Ranges"] == "bytes"
    assert head.get("Vary") == (None if export.coding in COMPRESSED else "Accept-Encoding")
    assert head["Cache-Control"] == "private, no-transform"
    assert head["X-Accel-Buffering"] == "no"
    assert head["Content-Type"] == media_type(export.coding)
    assert saved_as(export.coding).fullmatch(head["Content-Disposition"])
    assert not head.names & {"last-modified", "repr-digest", "content-encoding"}


def steady_fields(head: Head) -> list[tuple[str, str]]:
    """Returns all fields but Date and the framing of the body, which HEAD has not."""
    return sorted((name, value) for name, value in head.fields if name.lower() not in ("date", "transfer-encoding"))


def digest_of(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()
