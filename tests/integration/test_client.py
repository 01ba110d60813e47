"""The client against a test server that lies, refuses and replaces files; and a few tests against the real one."""

import asyncio
import errno
import json
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from threading import Event

import aiohttp
import pytest
from aiohttp import web

from streamer.client import (
    Client,
    ExportFailed,
    ExportGone,
    GaveUp,
    LocalFileError,
    ProgressListener,
    Refused,
    Replaced,
    RetryPolicy,
    Saved,
    VerificationFailed,
    export_to,
    pull,
)
from streamer.client.saving import SavePolicy
from streamer.client.transport import MAX_JSON
from tests.conftest import Server
from tests.exporting import create
from tests.integration.pretender import Answer, Pretender, breaks_after, pretending, says
from tests.integration.tlsfront import make_certificate
from tests.polling import until

CONTENT = random.Random(8).randbytes(300_000)
HALF = 150_000
QUICK = RetryPolicy(attempts=3, max_backoff=0.05, read_timeout=1.0)


@pytest.fixture
async def pretender() -> AsyncIterator[Pretender]:
    async with pretending(CONTENT) as pretender:
        yield pretender


@pytest.fixture
async def client(pretender: Pretender) -> AsyncIterator[Client]:
    async with Client(pretender.url, retry_policy=QUICK) as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "users.csv"


def part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def metadata(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


async def leave_half(pretender: Pretender, target: Path) -> None:
    """Leaves a part of an earlier run, which gave up."""
    pretender.downloads = [breaks_after(pretender, HALF), *[says(503)] * 2]
    async with Client(pretender.url, retry_policy=RetryPolicy(attempts=2, max_backoff=0.01)) as client:
        with pytest.raises(GaveUp):
            await client.get(pretender.download).save(target)
    pretender.downloads.clear()
    pretender.ranges.clear()
    assert 0 < part(target).stat().st_size <= HALF


async def test_a_complete_download_leaves_only_the_file(client: Client, pretender: Pretender, target: Path) -> None:
    saved = await client.get(pretender.id).save(target)
    assert read(target) == CONTENT
    assert names(target) == {"users.csv"}
    assert (saved.bytes, saved.sha256, saved.already_there) == (len(CONTENT), pretender.sha256, 0)


async def test_the_part_of_an_earlier_run_is_resumed(client: Client, pretender: Pretender, target: Path) -> None:
    await leave_half(pretender, target)
    there = part(target).stat().st_size
    saved = await client.get(pretender.id).save(target)
    assert read(target) == CONTENT
    assert saved.already_there == there
    assert pretender.ranges == [f"bytes={there}-"]


async def test_another_etag_is_refused_before_a_byte_is_appended(
    client: Client, pretender: Pretender, target: Path
) -> None:
    await leave_half(pretender, target)
    before = part(target).read_bytes()
    pretender.replace(bytes(300_000), '"another"')
    with pytest.raises(Replaced, match="was replaced"):
        await client.get(pretender.id).save(target)
    assert part(target).read_bytes() == before
    saved = await client.get(pretender.id).save(target, force=True)
    assert saved.already_there == 0
    assert read(target) == bytes(300_000)


async def test_an_etag_that_changes_while_it_is_downloaded_is_refused(
    client: Client, pretender: Pretender, target: Path
) -> None:
    """The status still has the old ETag, and the response to the range has the new one."""

    async def of_another(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": '"another"', "Content-Range": f"bytes 10-{len(CONTENT) - 1}/{len(CONTENT)}"}
        return web.Response(status=206, body=bytes(len(CONTENT) - 10), headers=headers)

    pretender.downloads = [breaks_after(pretender, 10), of_another]
    with pytest.raises(Replaced):
        await client.get(pretender.id).save(target)
    assert read(target) is None
    assert CONTENT.startswith(part(target).read_bytes())


async def test_other_bytes_under_the_same_etag_are_found_by_their_hash(
    client: Client, pretender: Pretender, target: Path
) -> None:
    await leave_half(pretender, target)
    pretender.replace(bytes(300_000))
    with pytest.raises(VerificationFailed, match="SHA-256"):
        await client.get(pretender.id).save(target)
    assert names(target) == set()  # to go on with it would be in vain
    await client.get(pretender.id).save(target)
    assert read(target) == bytes(300_000)


async def test_a_body_that_ends_early_without_an_error_is_continued(
    client: Client, pretender: Pretender, target: Path
) -> None:
    """A body that is delimited by the end of its connection ends without an error wherever that is cut."""

    async def short(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT[:HALF], headers={"ETag": pretender.etag})

    pretender.downloads = [short]
    await client.get(pretender.id).save(target)
    assert pretender.ranges == [None, f"bytes={HALF}-"]
    assert read(target) == CONTENT


async def test_a_body_that_is_longer_than_the_export_is_refused(
    client: Client, pretender: Pretender, target: Path
) -> None:
    async def long(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT + b"more", headers={"ETag": pretender.etag})

    pretender.downloads = [long]
    with pytest.raises(VerificationFailed, match="received 300004 bytes, but the export has 300000"):
        await client.get(pretender.id).save(target)
    assert names(target) == set()


async def test_a_200_for_a_range_is_skipped_up_to_the_existing_bytes(
    client: Client, pretender: Pretender, target: Path
) -> None:
    async def whole(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT, headers={"ETag": pretender.etag})

    await leave_half(pretender, target)
    pretender.downloads = [whole]
    await client.get(pretender.id).save(target)
    assert read(target) == CONTENT


@pytest.mark.parametrize(
    "content_range", [f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "bytes 7-9/*", "bytes */*", ""]
)
async def test_a_wrong_content_range_is_never_appended(
    client: Client, pretender: Pretender, target: Path, content_range: str
) -> None:
    async def wrong(request: web.Request) -> web.StreamResponse:
        return web.Response(status=206, body=b"x" * 9, headers={"ETag": pretender.etag, "Content-Range": content_range})

    await leave_half(pretender, target)
    pretender.downloads = [wrong]
    with pytest.raises((VerificationFailed, Refused)):
        await client.get(pretender.id).save(target)
    assert read(target) is None
    assert not part(target).exists() or CONTENT.startswith(part(target).read_bytes())


async def test_a_body_with_a_content_coding_is_refused(client: Client, pretender: Pretender, target: Path) -> None:
    async def coded(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x", headers={"ETag": pretender.etag, "Content-Encoding": "gzip"})

    pretender.downloads = [coded]
    with pytest.raises(Refused, match="gzip"):
        await client.get(pretender.id).save(target)


@pytest.mark.parametrize(
    "refusal",
    [
        (says(409, detail="the export failed: a view is gone"), ExportFailed, "a view is gone"),
        (says(410, detail="the export was cancelled"), ExportGone, "was cancelled"),
        (says(404, detail="there is no export"), ExportGone, "there is no export"),
        (says(404), Refused, "not a streamer server: 404 Not Found"),
        (says(403, detail="not yours"), Refused, "not yours; is the API key right"),
        (says(200), Refused, "not a streamer"),
    ],
)
async def test_a_permanent_error_is_not_retried(
    client: Client, pretender: Pretender, target: Path, refusal: tuple[Answer, type[Exception], str]
) -> None:
    answer, expected, sentence = refusal
    pretender.statuses = [answer]
    with pytest.raises(expected, match=sentence):
        await client.get(pretender.id).save(target)
    assert names(target) == set()


async def test_a_problem_that_arrives_in_pieces_is_read_whole(client: Client, pretender: Pretender) -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=410, headers={"Content-Type": "application/problem+json"})
        await response.prepare(request)
        for piece in (b'{"detail": "the ', b"export was ", b'deleted"}'):
            await response.write(piece)
            await asyncio.sleep(0.02)
        return response

    pretender.statuses = [slowly]
    with pytest.raises(ExportGone, match=r"^the export was deleted$"):
        await client.get(pretender.id).status()


async def test_a_status_that_is_too_long_is_refused(client: Client, pretender: Pretender) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(MAX_JSON + 1), content_type="application/json")

    pretender.statuses = [answer]
    with pytest.raises(Refused, match=f"more than {MAX_JSON} bytes"):
        await client.get(pretender.id).status()


async def test_a_page_of_html_instead_of_a_download_is_refused(
    client: Client, pretender: Pretender, target: Path
) -> None:
    pretender.downloads = [says(200)]
    with pytest.raises(Refused, match="not a streamer"):
        await client.get(pretender.id).save(target)
    assert names(target) == set()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_of_a_download_waits_for_retry_after(
    client: Client, pretender: Pretender, target: Path, status: int
) -> None:
    pretender.downloads = [says(status, headers={"Retry-After": "1"}, detail="not now")]
    begin = time.monotonic()
    await client.get(pretender.id).save(target)
    assert time.monotonic() - begin >= 1.0


async def test_max_time_ends_the_wait_for_a_retry(client: Client, pretender: Pretender, target: Path) -> None:
    pretender.downloads = [breaks_after(pretender, HALF), says(503, headers={"Retry-After": "3600"}, detail="not now")]
    with pytest.raises(GaveUp, match=r"not finished within 2 s"):
        await client.get(pretender.id).save(target, max_time=2)
    assert part(target).exists()


async def test_max_time_of_export_to_includes_the_creation(pretender: Pretender, target: Path) -> None:
    pretender.statuses = [says(429, headers={"Retry-After": "999999999"})]
    begin = time.monotonic()
    with pytest.raises(GaveUp, match=r"not finished within 0\.2 s"):
        await asyncio.to_thread(export_to, target, url=pretender.url, max_time=0.2)
    assert time.monotonic() - begin < 5


async def test_the_client_gives_up_after_the_last_attempt(client: Client, pretender: Pretender, target: Path) -> None:
    pretender.downloads = [says(502)] * QUICK.attempts
    with pytest.raises(GaveUp, match="502 Bad Gateway; gave up after 3 tries"):
        await client.get(pretender.id).save(target)


async def test_received_bytes_reset_the_count_of_attempts(client: Client, pretender: Pretender, target: Path) -> None:
    pretender.downloads = [says(502) if turn % 2 else breaks_after(pretender, 5000) for turn in range(24)]
    await client.get(pretender.id).save(target)
    assert read(target) == CONTENT


async def test_a_retried_creation_has_the_same_idempotency_key(client: Client, pretender: Pretender) -> None:
    pretender.statuses = [says(503), says(429, detail="100 exports are waiting already")]
    export = await client.export(dataset="users")
    assert export.id == pretender.id
    assert len(pretender.keys) == 3
    assert len(set(pretender.keys)) == 1
    assert None not in pretender.keys


async def test_an_existing_file_is_accepted_only_if_it_is_the_export(
    client: Client, pretender: Pretender, target: Path
) -> None:
    write(target, CONTENT)
    saved = await client.get(pretender.id).save(target)
    assert saved.already_there == len(CONTENT)
    assert pretender.ranges == []
    write(target, bytes(len(CONTENT)))
    with pytest.raises(LocalFileError, match="--force"):
        await client.get(pretender.id).save(target)
    await client.get(pretender.id).save(target, force=True)
    assert read(target) == CONTENT


async def test_a_file_that_appears_during_the_download_is_accepted_only_if_it_is_the_export(
    client: Client, pretender: Pretender, target: Path
) -> None:
    """Another program creates the file during the download: with the content of the export, or with another one."""

    def overtaking(content: bytes) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            write(target, content)
            return pretender.honest(request)

        return answer

    pretender.downloads = [overtaking(CONTENT[::-1])]
    with pytest.raises(LocalFileError, match="exists already"):
        await client.get(pretender.id).save(target)
    assert read(part(target)) == CONTENT
    assert read(target) == CONTENT[::-1]
    remove(target, part(target), metadata(target))
    pretender.downloads = [overtaking(CONTENT)]
    saved = await client.get(pretender.id).save(target)
    assert (saved.bytes, saved.already_there) == (len(CONTENT), len(CONTENT))
    assert names(target) == {target.name}


async def test_a_second_pull_accepts_the_file_of_the_first_one(
    client: Client, pretender: Pretender, target: Path
) -> None:
    """The second pull saw no file at its start, and gets the lock when the first one has finished."""
    other: list[Saved] = []

    async def finish_another(request: web.Request) -> web.StreamResponse:
        async with Client(pretender.url, retry_policy=QUICK) as second:
            other.append(await second.get(pretender.id).save(target))
        return web.json_response(pretender.status())

    pretender.statuses = [finish_another]
    saved = await client.get(pretender.id).save(target)
    assert (saved.path, saved.sha256) == (other[0].path, other[0].sha256)
    assert len(pretender.ranges) == 1
    assert names(target) == {target.name}


async def test_a_part_without_metadata_is_left_alone(client: Client, pretender: Pretender, target: Path) -> None:
    part(target).write_bytes(CONTENT[:HALF])
    for known in (None, b"", b"{}", b"[1]", json.dumps({"exportId": "x"}).encode()):
        if known is not None:
            metadata(target).write_bytes(known)
        with pytest.raises(LocalFileError, match="its export is not known"):
            await client.get(pretender.id).save(target)
    assert part(target).read_bytes() == CONTENT[:HALF]


async def test_a_part_of_another_export_is_an_error(client: Client, pretender: Pretender, target: Path) -> None:
    await leave_half(pretender, target)
    async with pretending(CONTENT[::-1]) as other, Client(other.url, retry_policy=QUICK) as second:
        with pytest.raises(LocalFileError, match=f"another export, {pretender.download}"):
            await second.get(other.id).save(target)
        await second.get(other.id).save(target, force=True)
    assert read(target) == CONTENT[::-1]


async def test_two_pulls_never_write_the_same_part(client: Client, pretender: Pretender, target: Path) -> None:
    held = asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse:
        await held.wait()
        return pretender.honest(request)

    async def held_part() -> bool:
        return metadata(target).exists()

    pretender.downloads = [hold]
    first = asyncio.create_task(client.get(pretender.id).save(target))
    await until(held_part, "the first pull has begun")
    with pytest.raises(LocalFileError, match="another pull"):
        await client.get(pretender.id).save(target)
    held.set()
    await first
    assert read(target) == CONTENT


SMALL_PIECES = SavePolicy(min_piece=40_000)


async def test_pieces_are_resumed_by_any_number_of_connections(
    client: Client, pretender: Pretender, target: Path
) -> None:
    pretender.downloads = [pretender_answers(pretender)] * 3 + [says(502)] * 20
    with pytest.raises(GaveUp):
        await client.get(pretender.id).save(target, connections=3, policy=SMALL_PIECES)
    known = json.loads(metadata(target).read_bytes())["pieces"]
    assert known == [[0, 120_000]]
    pretender.downloads.clear()
    saved = await client.get(pretender.id).save(target)
    assert saved.already_there == 120_000
    assert read(target) == CONTENT
    assert names(target) == {"users.csv"}


@pytest.mark.parametrize("connections", [1, 3])
async def test_a_full_disk_is_an_error_with_its_cause(
    client: Client, pretender: Pretender, target: Path, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(fd: int, piece: memoryview) -> int:
        raise full

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(LocalFileError, match=r"users\.csv.*: No space left on device$") as caught:
        await client.get(pretender.id).save(target, connections=connections, policy=SMALL_PIECES)
    assert caught.value.__cause__ is full


async def test_a_sequential_part_is_resumed_in_pieces(client: Client, pretender: Pretender, target: Path) -> None:
    await leave_half(pretender, target)
    there = part(target).stat().st_size
    saved = await client.get(pretender.id).save(target, connections=4)
    assert saved.already_there == there
    assert read(target) == CONTENT
    assert len(CONTENT) < SavePolicy().min_piece
    assert pretender.ranges == [f"bytes={there}-{len(CONTENT) - 1}"]


async def test_a_response_for_a_piece_must_be_exactly_the_requested_range(
    client: Client, pretender: Pretender, target: Path
) -> None:
    async def shifted(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": pretender.etag, "Content-Range": f"bytes 1-{len(CONTENT) - 1}/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT[1:], headers=headers)

    pretender.downloads = [shifted]
    with pytest.raises(VerificationFailed, match="requested bytes"):
        await client.get(pretender.id).save(target, connections=2)
    pretender.downloads = [says_whole(pretender)]
    with pytest.raises(Refused, match="use one connection"):
        await client.get(pretender.id).save(target, connections=2)
    assert read(target) is None


async def test_a_stream_raises_if_the_bytes_are_not_verified(client: Client, pretender: Pretender) -> None:
    pretender.downloads = [breaks_after(pretender, 1000), breaks_after(pretender, 1000)]
    assert b"".join([chunk async for chunk in client.get(pretender.id).stream()]) == CONTENT
    pretender.sha256 = "0" * 64
    with pytest.raises(VerificationFailed):
        async for _ in client.get(pretender.id).stream():
            pass


async def test_a_listener_receives_the_progress(pretender: Pretender, target: Path) -> None:
    seen: list[str] = []

    class Seeing(ProgressListener):
        def received(self, count: int) -> None:
            seen.append(str(count))

        def waiting(self, reason: str, seconds: float) -> None:
            seen.append(reason)

    pretender.downloads = [breaks_after(pretender, 1000)]
    async with Client(pretender.url, retry_policy=QUICK, listener=Seeing()) as client:
        await client.get(pretender.id).save(target)
    assert any("broke" in entry for entry in seen)
    assert seen[-1] == str(len(CONTENT))


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://nobody.invalid"])
async def test_the_error_for_an_unreachable_server_names_it(address: str) -> None:
    async with Client(address, retry_policy=QUICK) as client:
        with pytest.raises(GaveUp, match="cannot be reached"):
            await client.get("00000000-0000-0000-0000-000000000000").status()


async def test_a_server_without_tls_is_named_with_the_url_to_try(pretender: Pretender) -> None:
    host = pretender.url.removeprefix("http://")
    async with Client(f"https://{host}", retry_policy=QUICK) as client:
        with pytest.raises(Refused, match=f"^{host} does not speak TLS; try http://{host}$"):
            await client.get(pretender.id).status()


async def test_a_server_with_tls_is_named_with_the_url_to_use(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    async with pretending(CONTENT, context) as pretender:
        host = pretender.url.removeprefix("http://")
        async with Client(pretender.url, retry_policy=QUICK) as client:
            with pytest.raises(GaveUp, match=f"without an answer; if it expects TLS, use https://{host}; gave up"):
                await client.get(pretender.id).status()
        async with Client(f"https://{host}", retry_policy=QUICK) as client:
            with pytest.raises(Refused, match=f"the certificate of {host} is not valid: self-signed certificate; SSL_"):
                await client.get(pretender.id).status()


async def test_a_400_of_another_server_has_a_hint_at_tls(client: Client, pretender: Pretender) -> None:
    """As of nginx and Go for HTTP on a port for HTTPS."""
    pretender.statuses = [says(400)]
    with pytest.raises(Refused, match="is not a streamer server: 400 Bad Request; if it expects TLS, use https://127"):
        await client.get(pretender.id).status()


async def test_a_server_that_has_answered_is_not_suspected_of_tls(client: Client, pretender: Pretender) -> None:
    await client.get(pretender.id).status()
    pretender.statuses = [breaks_after(pretender, 0)] * QUICK.attempts
    with pytest.raises(GaveUp) as caught:
        await client.get(pretender.id).status()
    assert "TLS" not in str(caught.value)


async def test_a_server_without_the_path_of_its_address_is_refused(server: Server) -> None:
    async with Client(f"{server.url}/other", retry_policy=QUICK) as client:
        with pytest.raises(Refused, match="there is nothing at /other/exports; is the address of the server right"):
            assert [found async for found in client.exports()]
        with pytest.raises(Refused, match="is the address of the server right"):
            await client.export()


@pytest.mark.parametrize("key", ["two\nlines", "nul\0", "\udcff"])
def test_an_api_key_that_no_header_can_have_is_refused(key: str) -> None:
    with pytest.raises(Refused, match="the API key has characters that are not printable"):
        Client("http://127.0.0.1:9", key)


async def test_a_client_that_is_not_a_context_says_how_to_use_it(pretender: Pretender) -> None:
    with pytest.raises(RuntimeError, match="async with Client"):
        await Client(pretender.url).get(pretender.id).status()


async def test_a_blocking_call_works_inside_a_running_loop(target: Path) -> None:
    """As in Jupyter. The loop of the caller is blocked meanwhile, so the server runs on a loop of its own."""
    address: Future[str] = Future()
    stop = Event()

    async def serve() -> None:
        async with pretending(CONTENT) as pretender:
            address.set_result(pretender.download)
            await asyncio.to_thread(stop.wait)

    server = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    download = await asyncio.wrap_future(address)
    try:
        assert pull(download, target).bytes == len(CONTENT)
    finally:
        stop.set()
        await server


async def test_the_library_against_the_real_server(
    server: Server, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with Client(server.url) as client:
        where = {"country_code": ["US", "DE"], "id__lte": 5000}
        export = await client.export(dataset="users", where=where, columns=["id", "country_code"], delimiter=";")
        await export.save(tmp_path / "live.csv")
        lines = (tmp_path / "live.csv").read_text().splitlines()
        assert lines[0] == "id;country_code"
        assert {line.partition(";")[2] for line in lines[1:]} == {"US", "DE"}
        status = await export.status()
        assert status.completed
        assert status.progress.processed_rows == len(lines) - 1
        other = await create(session, server.url, id__lte="10")
        await other.until("completed")
        assert [str(found.export_id) async for found in client.exports()] == [other.id, str(export.id)]
        assert [found async for found in client.exports(status=["failed"])] == []
        assert [found async for found in client.exports(dataset="other")] == []
        assert len([found async for found in client.exports(dataset="users")]) == 2
        labelled = await client.export(where={"id__lte": 10}, label="Month end", ttl=timedelta(hours=2))
        await labelled.save(tmp_path / "labelled.csv")
        status = await labelled.status()
        assert (status.label, status.ttl) == ("Month end", 7200)
        assert [found.export_id async for found in client.exports(label="month", status=["completed"])] == [labelled.id]
        await export.delete()
        with pytest.raises(ExportGone):
            await export.save(tmp_path / "gone.csv")
        with pytest.raises(Refused, match="nope"):
            await client.export(where={"nope": 1})


async def test_python_values_select_the_same_rows_as_texts(server: Server) -> None:
    asked: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"signup_date__lt": datetime(2024, 1, 1)}, {"signup_date__lt": "2024-01-01T00:00:00Z"}),
        ({"signup_date_to": date(2024, 1, 1)}, {"signup_date_to": "2024-01-01"}),
        (
            {"signup_date__gte": datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
            {"signup_date__gte": "2023-12-31T19:00:00Z"},
        ),
        ({"lifetime_value__lte": Decimal("10.50")}, {"lifetime_value__lte": "10.50"}),
        ({"lifetime_value__lt": float("nan")}, {"lifetime_value__isnull": "false"}),
        ({"country_code": {"US"}}, {"country_code": "US"}),
        ({"id": (n for n in range(5))}, {"id": ["0", "1", "2", "3", "4"]}),
    ]
    async with Client(server.url) as client:
        for values, texts in asked:
            both = [await client.export(where=where, columns="id") for where in (values, texts)]
            found = [b"".join([chunk async for chunk in export.stream()]) for export in both]
            assert found[0] == found[1], values
            assert found[0].count(b"\n") > 1, values


async def test_an_empty_variable_is_refused(server: Server, target: Path) -> None:
    wrong: list[tuple[dict[str, object], type[Exception]]] = [
        ({"where": {"country_code": None}}, ValueError),
        ({"where": {"country_code": []}}, Refused),
        ({"where": {"country_code": ""}}, Refused),
        ({"where": {"country_code": iter(())}}, Refused),
        ({"where": ""}, TypeError),
        ({"country_code": None, "where": {}}, Refused),
        ({"columns": []}, Refused),
        ({"columns": ""}, Refused),
        ({"where": {"id": 1}, "filters": {"country_code": "US"}}, TypeError),
    ]
    async with Client(server.url) as client:
        for arguments, error in wrong:
            with pytest.raises(error):
                await client.export(**arguments)  # type: ignore[arg-type]
            with pytest.raises(error):
                await asyncio.to_thread(export_to, target, url=server.url, **arguments)  # type: ignore[arg-type]
        assert [found async for found in client.exports()] == []
    assert read(target) is None


@pytest.mark.parametrize("status", ["failed", ["failed"], iter(["failed"])], ids=["text", "list", "iterator"])
async def test_every_page_of_the_list_has_the_requested_states(
    client: Client, pretender: Pretender, status: Iterable[str]
) -> None:
    assert len([found async for found in client.exports(status=status)]) == 3
    assert [query["status"] for query in pretender.lists] == ["failed"] * 3


async def test_export_to_creates_and_downloads(server: Server, tmp_path: Path) -> None:
    def script() -> int:
        return export_to(tmp_path / "us.csv", url=server.url, where={"id__lte": 7}).rows

    assert await asyncio.to_thread(script) == 7
    with pytest.raises(LocalFileError):
        await asyncio.to_thread(script)


def pretender_answers(pretender: Pretender) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return pretender.honest(request)

    return answer


def says_whole(pretender: Pretender) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT, headers={"ETag": pretender.etag})

    return answer
