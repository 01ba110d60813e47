"""Downloads of live exports, over real sockets: the table of the API, row by row.

Each export is held at a known frontier and continued step by step, so that every test knows which bytes exist at which
time. `F` is the frontier when a response begins, `G` the next one, `T` the length in the end.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import pytest
import pytest_asyncio

from streamer.http.download.live import DownloadTimes
from streamer.server.tuning import Tuning
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
from tests.polling import PATIENCE, until
from tests.proxy import proxied
from tests.rawhttp import Body, Connection, End, Fields, Head, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP = 2  # where the exports of the table stand
F, G, T = (len(SMALL.through(step)) for step in (STEP, STEP + 1, SMALL.last))
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


@pytest_asyncio.fixture(loop_scope="module")
async def export(held: Held) -> HeldExport:
    """An export that waits at the frontier F."""
    return await held.export(at=STEP)


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

    def of(self, export: HeldExport) -> Fields:
        return {name: str(value).replace("{etag}", export.etag) for name, value in self.fields.items()}


def ranged(text: str, **more: str) -> dict[str, str]:
    return {"Range": text, **{name.replace("_", "-"): value for name, value in more.items()}}


AT_ONCE = (
    # Inside the frontier.
    Row(ranged("bytes=0-0"), 206, "bytes 0-0/*", 0, 1),
    Row(ranged("bytes=0-4"), 206, "bytes 0-4/*", 0, 5),
    Row(ranged("BYTES=3-7"), 206, "bytes 3-7/*", 3, 8),
    Row(ranged("bytes=,5-9,"), 206, "bytes 5-9/*", 5, 10),
    Row(ranged(f"bytes=0-{F - 1}"), 206, f"bytes 0-{F - 1}/*", 0, F),
    Row(ranged(f"bytes=5-{F - 1}"), 206, f"bytes 5-{F - 1}/*", 5, F),
    Row(ranged(f"bytes={F - 1}-{F - 1}"), 206, f"bytes {F - 1}-{F - 1}/*", F - 1, F),
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
    Row(ranged(f"bytes={T + 5}-", If_None_Match=ETAG), 304),
    Row({"If-Match": OTHER}, 412),
    Row({"If-Match": f"W/{ETAG}"}, 412),
    Row({"If-Match": OTHER, "If-None-Match": ETAG}, 412),
    Row(ranged("bytes=5-9", If_Match=OTHER), 412),
    Row(ranged(f"bytes={T + 5}-", If_Match=OTHER), 412),
)


@pytest.mark.parametrize("row", AT_ONCE, ids=str)
async def test_request_within_the_frontier_is_answered_at_once(export: HeldExport, row: Row) -> None:
    async with connection(export.held.url) as client:
        answer = await client.ask("GET", export.download, row.of(export))
        head = await client.ask("HEAD", export.download, row.of(export))
    assert answer.status == row.status
    assert answer.get("Content-Range") == row.content_range
    if row.status == 412:
        assert answer.json()["status"] == 412
    elif row.status == 304:
        assert answer.head.names == {"cache-control", "date", "etag", "server", "vary"}
    else:
        check_representation(answer.head, export)
        assert int(answer["Content-Length"]) == len(answer.body)
    if row.status in (206, 304):
        assert digest_of(answer.body) == digest_of(export.steps.whole[row.start : row.stop or 0])
        assert answer["ETag"] == export.etag
    assert (head.status, head.body, steady_fields(head.head)) == (row.status, b"", steady_fields(answer.head))


FOLLOWED = (
    Row({}),
    # Open ranges.
    Row(ranged("bytes=0-"), 206, f"bytes 0-{OPEN_END}/*"),
    Row(ranged("bytes=5-"), 206, f"bytes 5-{OPEN_END}/*", 5),
    Row(ranged(f"bytes={F - 1}-"), 206, f"bytes {F - 1}-{OPEN_END}/*", F - 1),
    Row(ranged("bytes=5-", If_Match=ETAG), 206, f"bytes 5-{OPEN_END}/*", 5),
    Row(ranged("bytes=5-", If_None_Match=OTHER), 206, f"bytes 5-{OPEN_END}/*", 5),
    Row(ranged("bytes=5-", Accept_Encoding="gzip"), 206, f"bytes 5-{OPEN_END}/*", 5),
    # Bounded beyond the frontier: the client's own last position, whether it will ever exist or not.
    Row(ranged(f"bytes=0-{F}"), 206, f"bytes 0-{F}/*", 0, F + 1),
    Row(ranged(f"bytes={F - 1}-{F + 9}"), 206, f"bytes {F - 1}-{F + 9}/*", F - 1, F + 10),
    Row(ranged(f"bytes=5-{G - 1}"), 206, f"bytes 5-{G - 1}/*", 5, G),
    Row(ranged(f"bytes=5-{G}"), 206, f"bytes 5-{G}/*", 5, G + 1),
    Row(ranged(f"bytes=5-{T - 1}"), 206, f"bytes 5-{T - 1}/*", 5, T),
    Row(ranged(f"bytes=5-{T}"), 206, f"bytes 5-{T}/*", 5),
    Row(ranged("bytes=0-999999999999"), 206, "bytes 0-999999999999/*"),
    Row(ranged(f"bytes=5-{OPEN_END}"), 206, f"bytes 5-{OPEN_END}/*", 5),
    Row(ranged("bytes=5-18446744073709551616"), 206, "bytes 5-18446744073709551616/*", 5),
    Row(ranged(f"bytes=5-{'9' * 4000}"), 206, f"bytes 5-{'9' * 4000}/*", 5),
    Row(ranged(f"bytes=5-{F + 9}", If_Range=ETAG), 206, f"bytes 5-{F + 9}/*", 5, F + 10),
    # With If-Range an open range comes from a browser, which cannot read its answer.
    Row(ranged("bytes=0-", If_Range=ETAG)),
    Row(ranged("bytes=5-", If_Range=ETAG)),
    Row(ranged("bytes=5-", If_Range=OTHER)),
    Row(ranged("bytes=5-", If_Range=FUTURE)),
    Row(ranged(f"bytes={F + 5}-", If_Range=ETAG)),
    # An If-Range that does not hold, or names a date: there is none yet.
    Row(ranged("bytes=5-9", If_Range=OTHER)),
    Row(ranged("bytes=5-9", If_Range=f"W/{ETAG}")),
    Row(ranged("bytes=5-9", If_Range=FUTURE)),
    Row(ranged("bytes=5-9", If_Range=PAST)),
    Row(ranged("bytes=5-9", If_Range="wrong")),
    Row(ranged("bytes=5-9", If_Range="")),
    Row(ranged(f"bytes={F + 5}-{F + 9}", If_Range=OTHER)),
    # Ranges that nothing can be said of yet, and what is no range.
    Row(ranged("bytes=-5")),
    Row(ranged("bytes=-0")),
    Row(ranged("bytes=0-1,3-4")),
    Row(ranged("bytes=0-4,5-9")),
    Row(ranged(f"bytes=0-4,{T}-")),
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


@pytest.mark.parametrize("row", FOLLOWED, ids=str)
async def test_request_beyond_the_frontier_is_followed(export: HeldExport, row: Row) -> None:
    held, whole = export.held, export.steps.whole
    async with connection(held.url) as client, connection(held.url) as other:
        await client.send("GET", export.download, row.of(export))
        head, body = await client.begin()
        alike = await other.ask("HEAD", export.download, row.of(export))
        assert (head.status, head.get("Content-Range")) == (row.status, row.content_range)
        assert head["Transfer-Encoding"] == "chunked"
        check_representation(head, export)
        without_framing = [field for field in steady_fields(head) if field[0] != "Transfer-Encoding"]
        assert (alike.status, steady_fields(alike.head)) == (row.status, without_framing)
        for step, frontier in ((STEP, F), (STEP + 1, G)):
            await held.open(step)
            await export.stands_at(step)
            there = whole[row.start : min(frontier, row.stop or frontier)]
            assert await body.grow_to(len(there)) == there
        if row.stop is not None and row.stop <= G:
            assert await body.finish() is End.WHOLE  # although the export goes on
        await held.open()
        assert digest_of(await body.whole()) == digest_of(whole[row.start : row.stop])
        after = await client.ask("HEAD", export.download)
        assert (after.status, after["ETag"]) == (200, head["ETag"])


WAITING = (
    Row(ranged(f"bytes={F}-"), 206, f"bytes {F}-{OPEN_END}/*", F),
    Row(ranged(f"bytes={F}-{F}"), 206, f"bytes {F}-{F}/*", F, F + 1),
    Row(ranged(f"bytes={F + 3}-{F + 9}"), 206, f"bytes {F + 3}-{F + 9}/*", F + 3, F + 10),
    Row(ranged(f"bytes={F + 3}-{F + 9}", If_Range=ETAG), 206, f"bytes {F + 3}-{F + 9}/*", F + 3, F + 10),
    Row(ranged(f"bytes={G - 1}-"), 206, f"bytes {G - 1}-{OPEN_END}/*", G - 1),
    Row(ranged(f"bytes={F}-{T + 5}"), 206, f"bytes {F}-{T + 5}/*", F),
)


@pytest.mark.parametrize("row", WAITING, ids=str)
async def test_range_beyond_the_frontier_waits_for_its_first_byte(export: HeldExport, row: Row) -> None:
    held, whole = export.held, export.steps.whole
    async with connection(held.url) as client, connection(held.url) as other:
        await client.send("GET", export.download, row.of(export))
        await other.send("HEAD", export.download, row.of(export))
        assert await silent(client, other)
        await held.open(STEP + 1)
        head, body = await client.begin()
        assert (head.status, head["Content-Range"]) == (row.status, row.content_range)
        assert (await other.answer("HEAD"))["Content-Range"] == row.content_range
        there = whole[row.start : min(G, row.stop or G)]
        assert await body.grow_to(len(there)) == there
        await held.open()
        assert digest_of(await body.whole()) == digest_of(whole[row.start : row.stop])
    check_representation(head, export)


async def test_range_far_beyond_the_frontier_waits_while_the_frontier_moves(export: HeldExport) -> None:
    held, whole = export.held, export.steps.whole
    async with connection(held.url) as client:
        await client.send("GET", export.download, {"Range": f"bytes={G}-"})
        await held.open(STEP + 1)
        await export.stands_at(STEP + 1)
        assert await silent(client)
        await held.open(STEP + 2)
        head, body = await client.begin()
        assert (head.status, head["Content-Range"]) == (206, f"bytes {G}-{OPEN_END}/*")
        await held.open()
        assert digest_of(await body.whole()) == digest_of(whole[G:])


@pytest.mark.parametrize(
    "text", [f"bytes={T}-", f"bytes={T}-{T + 9}", f"bytes={T + 5}-", "bytes=999999999999999999999-"]
)
async def test_export_that_ends_before_the_range_gets_416(export: HeldExport, text: str) -> None:
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, {"Range": text})
        await other.send("HEAD", export.download, {"Range": text})
        assert await silent(client, other)
        await export.held.open()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
    assert (answer.status, answer["Content-Range"], answer.json()["status"]) == (416, f"bytes */{T}", 416)
    assert (head.status, head["Content-Range"]) == (416, f"bytes */{T}")


async def test_export_that_fails_while_a_range_waits_gets_409_with_the_reason(export: HeldExport) -> None:
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, {"Range": f"bytes={F}-"})
        await other.send("HEAD", export.download, {"Range": f"bytes={F}-{F + 9}"})
        assert await silent(client, other)
        await export.held.gates.refuse()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
    assert (answer.status, head.status) == (409, 409)
    assert "canceling statement due to user request" in answer.json()["detail"]


async def test_export_that_is_cancelled_while_a_range_waits_gets_410(export: HeldExport) -> None:
    async with connection(export.held.url) as client, connection(export.held.url) as other:
        await client.send("GET", export.download, {"Range": f"bytes={F}-"})
        await other.send("HEAD", export.download, {"Range": f"bytes={F}-{F + 9}"})
        assert await silent(client, other)
        await export.cancel()
        answer, head = await client.answer("GET"), await other.answer("HEAD")
    assert (answer.status, head.status) == (410, 410)


# HTTP/1.0


@pytest.mark.parametrize(
    "row",
    [
        Row({}, 200, None, 0, T),
        Row({"Accept-Encoding": "gzip"}, 200, None, 0, T),
        Row({"Range": "bytes=5-"}, 206, f"bytes 5-{T - 1}/{T}", 5, T),
        Row({"Range": "bytes=5-9"}, 206, f"bytes 5-9/{T}", 5, 10),
        Row({"Range": "bytes=-5"}, 206, f"bytes {T - 5}-{T - 1}/{T}", T - 5, T),
        Row({"Range": f"bytes={T}-"}, 416, f"bytes */{T}"),
        Row({"If-None-Match": "*"}, 304, None, 0, 0),
    ],
    ids=str,
)
async def test_http_1_0_waits_for_the_end_and_gets_a_length(export: HeldExport, row: Row) -> None:
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
        assert digest_of(answer.body) == digest_of(export.steps.whole[row.start : row.stop])


async def test_http_1_0_gets_the_status_of_a_failure_and_of_a_cancellation(held: Held) -> None:
    for end, status in ((held.gates.refuse, 409), (None, 410)):
        export = await held.export(at=STEP)
        async with connection(held.url) as client:
            await client.send("GET", export.download, version="1.0")
            assert await silent(client)
            await (end or export.cancel)()
            assert (await client.answer("GET")).status == status


# Parameters


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 200), ({"Range": "bytes=0-4"}, 206), ({"Range": f"bytes={T}-"}, 416), ({"If-None-Match": "*"}, 304)],
)
async def test_live_false_gets_425_until_the_export_is_finished(
    export: HeldExport, fields: Fields, status: int, method: str
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


async def test_live_false_gets_425_over_http_1_0(export: HeldExport) -> None:
    assert (await ask(export.held.url, "GET", f"{export.download}?live=false", version="1.0")).status == 425


@pytest.mark.parametrize("query", ["live=maybe", "live=", "live=1", "live=True", "live=true&live=true"])
async def test_live_must_be_true_or_false_once(export: HeldExport, query: str) -> None:
    answer = await ask(export.held.url, "GET", f"{export.download}?{query}")
    assert (answer.status, answer.json()["parameter"]) == (400, "live")
    assert (await ask(export.held.url, "HEAD", f"{export.download}?{query}")).status == 400


async def test_live_true_follows_with_the_requested_filename(export: HeldExport) -> None:
    async with connection(export.held.url) as client:
        await client.send("GET", f"{export.download}?live=true&filename=users.csv")
        head, body = await client.begin()
        assert (head.status, head["Content-Disposition"]) == (200, 'attachment; filename="users.csv"')
        await export.held.open()
        assert digest_of(await body.whole()) == digest_of(export.steps.whole)


# Ends

ENDLESS = [{}, {"Range": "bytes=5-"}, {"Range": f"bytes=5-{T + 9}"}]


@pytest.mark.parametrize("fields", ENDLESS)
async def test_failed_export_ends_its_downloads_without_a_final_chunk(export: HeldExport, fields: Fields) -> None:
    async with connection(export.held.url) as client:
        body = await follow(client, export, fields)
        await export.held.gates.refuse()
        assert await body.finish() is End.CLOSED
    assert body.received == export.steps.through(STEP)[5 if fields else 0 :]
    failed = await ask(export.held.url, "GET", export.download, fields)
    assert failed.status == 409
    assert "canceling statement due to user request" in failed.json()["detail"]
    assert (await export.status())["status"] == "failed"


@pytest.mark.parametrize("fields", ENDLESS)
async def test_cancelled_export_ends_its_downloads_without_a_final_chunk(export: HeldExport, fields: Fields) -> None:
    async with connection(export.held.url) as client:
        body = await follow(client, export, fields)
        await export.cancel()
        assert await body.finish() is End.CLOSED
    assert body.received == export.steps.through(STEP)[5 if fields else 0 :]
    assert (await ask(export.held.url, "GET", export.download, fields)).status == 410
    assert (await export.status())["status"] == "cancelled"


async def test_stopping_server_ends_its_downloads_without_a_final_chunk(postgres: str, tmp_path: Path) -> None:
    async with scratch_database(postgres) as database:
        async with gated_server(database, tmp_path) as held:
            export = await held.export(at=STEP)
            async with (
                connection(held.url) as first,
                connection(held.url) as second,
                connection(held.url) as waiting,
                connection(held.url) as old,
            ):
                bodies = [await follow(first, export, {}), await follow(second, export, {"Range": "bytes=5-"})]
                await waiting.send("GET", export.download, {"Range": f"bytes={F}-"})
                await old.send("GET", export.download, version="1.0")
                assert await silent(waiting, old)
                await held.stop()
                assert [await body.finish() for body in bodies] == [End.CLOSED, End.CLOSED]
                assert [(await client.answer("GET")).status for client in (waiting, old)] == [409, 409]
            assert bodies[0].received == export.steps.through(STEP)
            assert bodies[1].received == export.steps.through(STEP)[5:]
        async with gated_server(database, tmp_path) as again:
            answer = await ask(again.url, "GET", export.download)
            assert answer.status == 409
            assert "stopped" in answer.json()["detail"]


FRONTIER_OF_BULK = len(BULK.through(1))
SLOW = [
    {},
    {"Range": "bytes=5-"},
    {"Range": f"bytes=0-{FRONTIER_OF_BULK - 1}"},  # all of it is there: the body has a length
    {"Range": f"bytes=0-{FRONTIER_OF_BULK + 9}"},
]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_slow_client_is_disconnected_when_the_export_fails_or_is_cancelled(held: Held, end: str) -> None:
    """Also if its range existed in full: the rest of it belongs to no valid export."""
    export = await held.export(BULK, at=1)
    async with (
        connection(held.url, receive=16_384) as first,
        connection(held.url, receive=16_384) as second,
        connection(held.url, receive=16_384) as third,
        connection(held.url, receive=16_384) as fourth,
        connection(held.url) as quick,
    ):
        bodies: list[Body] = []
        for client, fields in zip((first, second, third, fourth), SLOW, strict=True):
            await client.send("GET", export.download, fields)
            _, body = await client.begin()
            await body.grow_to(1000)
            bodies.append(body)
        reading = await follow(quick, export, {})
        await (held.gates.refuse() if end == "failed" else export.cancel())
        assert await reading.finish() is End.CLOSED
        assert [await body.finish() for body in bodies] == [End.CLOSED, End.CLOSED, End.RESET, End.CLOSED]
    assert digest_of(reading.received) == digest_of(BULK.through(1))
    for body, fields in zip(bodies, SLOW, strict=True):
        start = 5 if fields.get("Range") == "bytes=5-" else 0
        assert len(body.received) < FRONTIER_OF_BULK - start
        assert body.received == BULK.whole[start : start + len(body.received)]


async def test_clients_that_join_and_leave_at_any_time_get_the_same_bytes(held: Held) -> None:
    export = await held.export(at=1)
    digest = digest_of(export.steps.whole)
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


async def test_broken_download_is_resumed_while_the_export_grows(export: HeldExport) -> None:
    async with connection(export.held.url) as client:
        body = await follow(client, export, {})
        client.vanish()
    have = bytes(body.received)
    async with connection(export.held.url) as client:
        await client.send("GET", export.download, {"Range": f"bytes={len(have)}-"})
        await export.held.open()
        head, body = await client.begin()
        assert head.status == 206
        assert digest_of(have + await body.whole()) == digest_of(export.steps.whole)


async def test_tag_is_the_same_from_the_first_byte_to_the_sealed_file(held: Held) -> None:
    export = await held.export(at=1)
    tags = {(await export.status())["etag"]}
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


async def test_queued_export_is_followed(postgres: str, tmp_path: Path) -> None:
    async with lone_gated_server(postgres, tmp_path, max_concurrent_exports=1) as held:
        running = await held.export(at=STEP)
        created = (await ask(held.url, "POST", f"/exports/csv?dataset={SMALL.name}")).json()
        queued = HeldExport(held, SMALL, created["exportId"])
        assert (await queued.status())["status"] == "pending"
        assert (await ask(held.url, "GET", f"{queued.download}?live=false")).status == 425
        async with connection(held.url) as client, connection(held.url) as waiting:
            await client.send("GET", queued.download)
            await waiting.send("GET", queued.download, {"Range": "bytes=0-4"})
            head, body = await client.begin()
            assert (head.status, head["ETag"]) == (200, queued.etag)
            assert await silent(client, waiting)
            await held.open()
            assert digest_of(await body.whole()) == digest_of(SMALL.whole)
            assert (await waiting.answer("GET")).body == SMALL.whole[:5]
        await running.becomes("completed")


async def test_export_that_is_cancelled_in_the_queue_breaks_its_downloads(postgres: str, tmp_path: Path) -> None:
    async with lone_gated_server(postgres, tmp_path, max_concurrent_exports=1) as held:
        await held.export(at=STEP)
        created = (await ask(held.url, "POST", f"/exports/csv?dataset={SMALL.name}")).json()
        queued = HeldExport(held, SMALL, created["exportId"])
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
        check_representation(head, export)
        assert await body.grow_to(F) == SMALL.through(STEP)
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
        have = await body.grow_to(F)
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
    assert (answer.status, int(answer["Content-Length"])) == (200, T)
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


async def follow(client: Connection, export: HeldExport, fields: Fields) -> Body:
    """Returns a download that has received all bytes that exist, and waits for more."""
    await client.send("GET", export.download, fields)
    _, body = await client.begin()
    start = 5 if "Range" in fields else 0
    frontier = int((await export.status())["progress"]["bytes"])
    assert await body.grow_to(frontier - start) == export.steps.whole[start:frontier]
    return body


async def read_whole(export: HeldExport) -> str:
    return digest_of((await ask(export.held.url, "GET", export.download)).body)


async def silent(*clients: Connection) -> bool:
    """Returns whether no request gets a response for a moment."""
    return all(await asyncio.gather(*(client.silent(MOMENT) for client in clients)))


def check_representation(head: Head, export: HeldExport) -> None:
    assert head["ETag"] == export.etag
    assert head["Accept-Ranges"] == "bytes"
    assert head["Vary"] == "Accept-Encoding"
    assert head["Cache-Control"] == "private, no-transform"
    assert head["X-Accel-Buffering"] == "no"
    assert head["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert saved_as().fullmatch(head["Content-Disposition"])
    assert not head.names & {"last-modified", "repr-digest", "content-encoding"}


def steady_fields(head: Head) -> list[tuple[str, str]]:
    """Returns all fields but Date and the framing of the body, which HEAD has not."""
    return sorted((name, value) for name, value in head.fields if name.lower() not in ("date", "transfer-encoding"))


def digest_of(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()
