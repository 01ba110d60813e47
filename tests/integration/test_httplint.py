"""Every kind of response is checked by a linter for HTTP: no errors, and no warnings but the explained ones."""

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from httplint import HttpRequestLinter, HttpResponseLinter, Note, levels

from tests.held import SMALL, Held, HeldExport, gated_server, scratch_database
from tests.rawhttp import Answer, Fields, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCEPTED = {
    # Cache-Control is `private, no-transform`, so a private cache may guess how long a download is fresh. It may: the
    # bytes of an export never change, and a client that has them loses nothing when the export is deleted.
    "FRESHNESS_HEURISTIC",
    # RFC 9110, 15.3.3 wants a 202 to point to a status monitor and names no field for it; clients read Location.
    "LOCATION_UNDEFINED",
    # Said of every 400, whatever is in it.
    "STATUS_BAD_REQUEST",
}
STREAM = f"/exports/csv?dataset={SMALL.name}"
GZIP_ONLY = {"Accept-Encoding": "gzip, identity;q=0"}


@dataclass(frozen=True)
class Stage:
    """Three servers in different states, and exports in every state."""

    quiet: Held  # its gates are shut
    busy: Held  # it has no slot left
    flowing: Held  # its gates are open
    exports: dict[str, HeldExport]

    def target(self, text: str) -> str:
        return text.format_map({name: f"/exports/{export.id}" for name, export in self.exports.items()})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:

        async def server(spool: Path, **settings: Any) -> Held:
            database = await stack.enter_async_context(scratch_database(postgres))
            return await stack.enter_async_context(gated_server(database, spool, **settings))

        quiet, busy, flowing = [
            await server(tmp_path_factory.mktemp("quiet")),
            await server(
                tmp_path_factory.mktemp("busy"), compressions=1, max_concurrent_exports=1, max_queued_exports=1
            ),
            await server(tmp_path_factory.mktemp("flowing")),
        ]
        exports = {name: await flowing.completed(SMALL) for name in ("sealed", "doomed", "job")}
        exports["failed"] = await quiet.export(at=1)
        await quiet.gates.refuse()
        await exports["failed"].becomes("failed")
        exports["cancelled"] = await quiet.export(at=1)
        await exports["cancelled"].cancel()
        exports["live"] = await quiet.export(at=2)
        exports["running"] = await busy.export(at=2)
        assert (await ask(busy.url, "POST", STREAM)).status == 202  # it waits
        follower = await stack.enter_async_context(connection(busy.url))
        await follower.send("GET", exports["running"].download, GZIP_ONLY)
        assert (await follower.begin())[0].status == 200  # by it the only coding is made
        yield Stage(quiet, busy, flowing, exports)


@dataclass(frozen=True)
class Kind:
    status: int
    server: str
    method: str
    target: str
    fields: Fields

    def __str__(self) -> str:
        fields = " ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{self.status} {self.method} {self.target} {fields}".strip()


def kinds(
    status: int, server: str, target: str, fields: Fields | None = None, methods: Iterable[str] = ("GET", "HEAD")
) -> Iterator[Kind]:
    for method in methods:
        yield Kind(status, server, method, target, fields or {})


KINDS = (
    # Sealed.
    *kinds(200, "flowing", "{sealed}/download"),
    *kinds(200, "flowing", "{sealed}/download?filename=K%C3%A4se.csv"),
    *kinds(200, "flowing", "{sealed}/download", {"Accept-Encoding": "gzip"}),
    *kinds(206, "flowing", "{sealed}/download", {"Range": "bytes=5-9"}),
    *kinds(206, "flowing", "{sealed}/download", {"Range": "bytes=-5"}),
    *kinds(206, "flowing", "{sealed}/download", {"Range": "bytes=0-4,7-9"}),
    *kinds(304, "flowing", "{sealed}/download", {"If-None-Match": "*"}),
    *kinds(304, "flowing", "{sealed}/download", {"If-Modified-Since": "Fri, 25 Feb 2174 09:42:23 GMT"}),
    *kinds(304, "flowing", "{sealed}/download", {"If-None-Match": "*", "Accept-Encoding": "gzip"}),
    *kinds(406, "flowing", "{sealed}/download", {"Accept-Encoding": "*;q=0"}),
    *kinds(412, "flowing", "{sealed}/download", {"If-Match": '"another"'}),
    *kinds(416, "flowing", "{sealed}/download", {"Range": "bytes=9999999-"}),
    # Live, as far as it is answered at once.
    *kinds(206, "quiet", "{live}/download", {"Range": "bytes=5-9"}),
    *kinds(304, "quiet", "{live}/download", {"If-None-Match": "*"}),
    *kinds(412, "quiet", "{live}/download", {"If-Match": '"another"'}),
    *kinds(425, "quiet", "{live}/download?live=false"),
    *kinds(200, "quiet", "{live}/download", methods=["HEAD"]),
    *kinds(200, "quiet", "{live}/download", {"Accept-Encoding": "gzip"}, methods=["HEAD"]),
    *kinds(206, "quiet", "{live}/download", {"Range": "bytes=0-"}, methods=["HEAD"]),
    # In one request.
    *kinds(200, "flowing", STREAM),
    *kinds(200, "flowing", STREAM, {"Accept-Encoding": "gzip"}),
    *kinds(400, "flowing", STREAM, {"Range": "bytes=5-"}),
    *kinds(406, "flowing", STREAM, {"Accept-Encoding": "*;q=0"}),
    # Pages.
    *kinds(200, "flowing", "/"),
    *kinds(200, "flowing", "/", {"Accept": "text/html"}),
    *kinds(200, "flowing", "/docs"),
    *kinds(200, "flowing", "/docs/settings"),
    *kinds(200, "flowing", "/docs/settings.md"),
    *kinds(304, "flowing", "/docs/settings", {"If-None-Match": "*"}),
    *kinds(404, "flowing", "/docs/seting"),
    # Not found.
    *kinds(404, "quiet", "/exports/0f2ab9b4-0000-4000-8000-000000000000/download"),
    *kinds(404, "quiet", "/exports/1/download"),
    *kinds(404, "quiet", "/nowhere"),
    *kinds(409, "quiet", "{failed}/download"),
    *kinds(410, "quiet", "{cancelled}/download"),
    # Bad requests.
    *kinds(400, "quiet", "{live}/download?live=maybe"),
    *kinds(400, "quiet", "{live}/download?filename=a&filename=b"),
    *kinds(400, "quiet", "/exports/csv?dataset=none", methods=["GET", "HEAD", "POST"]),
    *kinds(400, "quiet", "/exports?limit=0"),
    *kinds(405, "quiet", "{live}/download", methods=["POST", "PUT", "DELETE"]),
    *kinds(405, "quiet", "/health", methods=["POST"]),
    # No slot.
    *kinds(429, "busy", STREAM, methods=["POST"]),
    *kinds(429, "busy", STREAM, methods=["GET"]),
    *kinds(503, "busy", "{running}/download", {"Accept-Encoding": "zstd, identity;q=0"}),
    # The exports themselves.
    *kinds(200, "quiet", "/health"),
    *kinds(200, "flowing", "/exports?limit=2&status=completed"),
    *kinds(200, "quiet", "{live}/status"),
    *kinds(200, "flowing", "{sealed}"),
    *kinds(202, "flowing", STREAM, methods=["POST"]),
    *kinds(202, "flowing", f"/exports?dataset={SMALL.name}", methods=["POST"]),
    *kinds(200, "flowing", "{job}/cancel", methods=["POST"]),
    *kinds(204, "flowing", "{doomed}", methods=["DELETE"]),
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_every_kind_of_response_is_valid(stage: Stage, kind: Kind) -> None:
    target = stage.target(kind.target)
    server: Held = getattr(stage, kind.server)
    answer = await ask(server.url, kind.method, target, kind.fields, close=False)
    assert answer.status == kind.status
    check(kind.method, target, kind.fields, answer)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Accept-Encoding": "gzip"}, 200),
        ({"Range": "bytes=5-"}, 206),
        ({"Range": "bytes=5-999999"}, 206),
        ({"Range": "bytes=5-", "If-Range": '"another"'}, 200),
    ],
)
async def test_every_kind_of_followed_response_is_valid(stage: Stage, fields: Fields, status: int) -> None:
    export = await stage.flowing.export(at=2)
    async with connection(stage.flowing.url) as client:
        await client.send("GET", export.download, fields)
        head, body = await client.begin()
        await stage.flowing.open()
        answer = Answer(head, await body.whole())
    assert (answer.status, answer["Transfer-Encoding"]) == (status, "chunked")
    check("GET", export.download, fields, answer)


async def test_linter_finds_an_error(stage: Stage) -> None:
    target = stage.target("{sealed}/download")
    answer = await ask(stage.flowing.url, "GET", target, close=False)
    found = {type(note).__name__ for note in notes("GET", target, {}, Answer(answer.head, answer.body[:-1]))}
    assert "CL_INCORRECT" in found
    assert "PARTIAL_NOT_REQUESTED" in {
        type(note).__name__
        for note in notes("GET", target, {}, await ask(stage.flowing.url, "GET", target, {"Range": "bytes=0-4"}))
    }


def check(method: str, target: str, fields: Fields, answer: Answer) -> None:
    accepted = set(ACCEPTED)
    if (answer.get("Content-Type") or "").startswith("multipart/byteranges"):
        # RFC 9110, 15.3.7.2: the parts have it, and the whole must not. The linter does not know of parts.
        accepted.add("PARTIAL_WITHOUT_RANGE")
    complaints = [
        f"{note.level.name} {type(note).__name__} ({note.subject}): {note}"
        for note in notes(method, target, fields, answer)
        if note.level in (levels.BAD, levels.WARN) and type(note).__name__ not in accepted
    ]
    assert not complaints


def notes(method: str, target: str, fields: Fields, answer: Answer) -> list[Note]:
    """Returns the notes of the linter on a response to this request."""
    now = time.time()
    request = HttpRequestLinter(start_time=now)
    request.process_request_topline(method.encode(), target.encode(), b"1.1")
    request.process_headers([(name.encode(), str(value).encode()) for name, value in fields.items()])
    request.finish_content(True)
    response = HttpResponseLinter(start_time=now)
    response.request = request
    response.is_head_response = method == "HEAD"
    response.base_uri = f"http://streamer.example{target}"
    head = answer.head
    response.process_response_topline(head.version.encode(), str(head.status).encode(), head.reason.encode())
    response.process_headers([(name.encode(), value.encode("latin-1")) for name, value in head.fields])
    response.feed_content(answer.body)
    response.finish_content(True)
    return [each for note in response.notes for each in (note, *note.subnotes)]
