"""Compressed files in the library: a test server that lies about them, and the real one."""

import asyncio
import gzip
import hashlib
import random
from asyncio import Semaphore
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web

from streamer.client import (
    Client,
    ExportGone,
    GaveUp,
    LocalFileError,
    ProgressListener,
    Refused,
    Replaced,
    RetryPolicy,
    VerificationFailed,
    export_to,
    pull,
)
from streamer.client.client import Export
from streamer.client.saving import SavePolicy
from tests.conftest import Server
from tests.integration.pretender import Pretender, breaks_after, pretending, says

CONTENT = random.Random(8).randbytes(200_000)
GZIP = gzip.compress(CONTENT, mtime=0)
HALF = 100_000
QUICK = RetryPolicy(attempts=3, max_backoff=0.05, read_timeout=1.0)

Save = Callable[[Export, Path], Awaitable[object]]


async def save_gzip(export: Export, target: Path) -> object:
    return await export.save(target, coding="gzip")


async def save_decoded(export: Export, target: Path) -> object:
    return await export.save(target, decode=True)


async def stream_gzip(export: Export, target: Path) -> object:
    return [chunk async for chunk in export.stream(coding="gzip")]


async def stream_decoded(export: Export, target: Path) -> object:
    return [chunk async for chunk in export.stream(decode=True)]


every_save = pytest.mark.parametrize("save", [save_gzip, save_decoded])
every_way = pytest.mark.parametrize("save", [save_gzip, save_decoded, stream_gzip, stream_decoded])


@pytest.fixture
async def pretender() -> AsyncIterator[Pretender]:
    async with pretending(CONTENT) as pretender:
        pretender.gzip = GZIP
        yield pretender


@pytest.fixture
async def client(pretender: Pretender) -> AsyncIterator[Client]:
    async with Client(pretender.url, retry_policy=QUICK) as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "users.csv"


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


@every_save
async def test_every_break_is_resumed_at_the_next_compressed_byte(
    client: Client, pretender: Pretender, target: Path, save: Save
) -> None:
    pretender.downloads = [breaks_after(pretender, HALF), breaks_after(pretender, HALF // 2)]
    await save(client.get(pretender.id), target)
    assert read(target) == (GZIP if save is save_gzip else CONTENT)
    assert names(target) == {"users.csv"}
    assert pretender.ranges[0] is None
    assert len(pretender.ranges) == 3


async def leave_pieces(pretender: Pretender, target: Path) -> None:
    """Leaves a part of an earlier run with several connections, which gave up."""
    pretender.downloads = [breaks_after(pretender, 20_000)] * 3 + [says(503)] * 9
    policy = SavePolicy(min_piece=60_000)
    async with Client(pretender.url, retry_policy=QUICK) as client:
        with pytest.raises(GaveUp):
            await client.get(pretender.id).save(target, coding="gzip", connections=3, policy=policy)
    pretender.downloads.clear()
    pretender.ranges.clear()
    assert "[" in target.with_name("users.csv.part.json").read_text()


async def test_pieces_are_continued_when_the_file_is_made_again(
    client: Client, pretender: Pretender, target: Path
) -> None:
    """Only the length of the complete file says which pieces are missing. The first request makes the file again."""

    async def begins(request: web.Request) -> web.StreamResponse:
        pretender.gzip_state = "completed"
        return await says(503, detail="the compressed file is being made again")(request)

    await leave_pieces(pretender, target)
    pretender.gzip_state = "processing"
    pretender.downloads = [begins]
    saved = await client.get(pretender.id).save(target, coding="gzip")
    assert read(target) == GZIP
    assert saved.already_there > 0
    assert pretender.ranges[0] == "bytes=0-0"


async def test_pieces_wait_for_the_end_of_the_making(client: Client, pretender: Pretender, target: Path) -> None:
    await leave_pieces(pretender, target)
    pretender.gzip_state = "processing"
    with pytest.raises(GaveUp, match="the gzip file is being made again; gave up after 3 tries"):
        await client.get(pretender.id).save(target, coding="gzip")
    pretender.gzip_state = "completed"
    await client.get(pretender.id).save(target, coding="gzip")
    assert read(target) == GZIP


@pytest.mark.parametrize("growth", [0, 100])
async def test_a_silent_connection_is_a_failure_only_while_the_export_grows(
    pretender: Pretender, target: Path, growth: int
) -> None:
    """The status does not say how long a growing compressed file is."""
    sizes = count(step=growth)
    connections = Semaphore(0)

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": pretender.gzip_etag})
        await response.prepare(request)
        connections.release()
        await asyncio.Event().wait()
        return response

    async def growing(request: web.Request) -> web.StreamResponse:
        status = pretender.status()
        status["progress"]["bytes"] = next(sizes)
        return web.json_response(status)

    pretender.state = pretender.gzip_state = "processing"
    pretender.downloads = [silent] * 100
    pretender.statuses = [growing] * 200
    async with Client(
        pretender.url, retry_policy=RetryPolicy(attempts=2, max_backoff=0.01, read_timeout=0.05)
    ) as client:
        saving = asyncio.create_task(client.get(pretender.id).save(target, coding="gzip"))
        if growth:
            with pytest.raises(GaveUp, match="sent no data within the timeout"):
                await saving
        else:
            for _ in range(6):
                await connections.acquire()
            saving.cancel()
            await asyncio.wait({saving})
            assert saving.cancelled()


async def test_a_broken_stream_is_resumed_and_decoded(client: Client, pretender: Pretender) -> None:
    pretender.downloads = [breaks_after(pretender, 1000), breaks_after(pretender, HALF)]
    assert b"".join([chunk async for chunk in client.get(pretender.id).stream(decode=True)]) == CONTENT
    pretender.downloads = [breaks_after(pretender, 1000)]
    assert b"".join([chunk async for chunk in client.get(pretender.id).stream(coding="gzip")]) == GZIP


@every_way
async def test_a_compressed_file_with_another_digest_than_its_own_is_refused(
    client: Client, pretender: Pretender, target: Path, save: Save
) -> None:
    async def other_bytes(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": pretender.gzip_etag}
        return web.Response(body=gzip.compress(CONTENT, compresslevel=0)[: len(GZIP)], headers=headers)

    pretender.downloads = [other_bytes]
    with pytest.raises(VerificationFailed):
        await save(client.get(pretender.id), target)
    assert names(target) == set()


@pytest.mark.parametrize("save", [save_decoded, stream_decoded])
@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        (gzip.compress(CONTENT[::-1]), "the SHA-256 does not match the server's"),
        (gzip.compress(CONTENT[:-1]), "bytes"),
        (gzip.compress(CONTENT + b"x"), "bytes"),
        (CONTENT, "cannot be decoded: .*incorrect header check"),
        (GZIP[:-1], "its end is missing"),
        (GZIP + GZIP, "other bytes follow its end"),
    ],
)
async def test_a_compressed_file_that_is_not_the_export_is_refused(
    *, client: Client, pretender: Pretender, target: Path, save: Save, inside: bytes, sentence: str
) -> None:
    """Its own length and digest are right."""
    pretender.gzip = inside
    with pytest.raises(VerificationFailed, match=sentence):
        await save(client.get(pretender.id), target)
    assert names(target) == set()


async def test_a_file_of_gzip_is_not_decoded_to_be_verified(client: Client, pretender: Pretender, target: Path) -> None:
    """Its own digest is enough."""
    pretender.gzip = b"not gzip"
    saved = await client.get(pretender.id).save(target, coding="gzip")
    assert (read(target), saved.sha256) == (b"not gzip", hashlib.sha256(b"not gzip").hexdigest())


@every_way
async def test_a_compressed_file_that_a_proxy_has_compressed_or_unpacked_is_refused(
    client: Client, pretender: Pretender, target: Path, save: Save
) -> None:
    async def coded(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=GZIP, headers={"ETag": pretender.gzip_etag, "Content-Encoding": "gzip"})

    pretender.downloads = [coded]
    with pytest.raises(Refused, match="Content-Encoding gzip, which was not requested"):
        await save(client.get(pretender.id), target)
    assert names(target) == set()


@every_save
async def test_another_etag_is_refused_before_a_byte_is_appended(
    client: Client, pretender: Pretender, target: Path, save: Save
) -> None:
    pretender.downloads = [breaks_after(pretender, HALF), *[says(503)] * 3]
    with pytest.raises(GaveUp):
        await save(client.get(pretender.id), target)
    part = target.with_name("users.csv.part")
    kept = part.read_bytes()
    pretender.downloads.clear()
    pretender.gzip_etag = '"another"'
    with pytest.raises(Replaced):
        await save(client.get(pretender.id), target)
    assert part.read_bytes() == kept


@every_way
async def test_an_older_server_is_refused_with_the_url_of_the_csv(
    client: Client, pretender: Pretender, target: Path, save: Save
) -> None:
    pretender.gzip = None
    with pytest.raises(Refused, match=f"has no gzip files: it is older than this client; .* {pretender.download}"):
        await save(client.get(pretender.id), target)
    assert names(target) == set()


@every_way
@pytest.mark.parametrize(
    ("status", "expected"), [(410, ExportGone), (503, GaveUp), (507, GaveUp)], ids=["410", "503", "507"]
)
async def test_a_refusal_has_the_sentence_of_the_server(
    *, client: Client, pretender: Pretender, target: Path, save: Save, status: int, expected: type[Exception]
) -> None:
    pretender.downloads = [says(status, detail="not now")] * 3
    with pytest.raises(expected, match="not now"):
        await save(client.get(pretender.id), target)


async def test_decoding_is_reported_after_the_last_byte(pretender: Pretender, target: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Seeing(ProgressListener):
        def received(self, count: int) -> None:
            seen.append(("received", count))

        def decoding(self, count: int) -> None:
            seen.append(("decoding", count))

    async with Client(pretender.url, listener=Seeing()) as client:
        await client.get(pretender.id).save(target, decode=True)
    assert ("received", len(GZIP)) in seen
    assert seen[-1] == ("decoding", len(CONTENT))


async def test_an_interrupted_decoding_downloads_nothing_again(pretender: Pretender, target: Path) -> None:
    class Interrupting(ProgressListener):
        def decoding(self, count: int) -> None:
            saving.cancel()

    async with Client(pretender.url, listener=Interrupting()) as client:
        saving = asyncio.create_task(client.get(pretender.id).save(target, decode=True))
        await asyncio.wait({saving})
    assert saving.cancelled()
    assert names(target) == {"users.csv.part", "users.csv.part.json"}
    pretender.ranges.clear()
    async with Client(pretender.url) as client:
        saved = await client.get(pretender.id).save(target, decode=True)
    assert (read(target), saved.already_there) == (CONTENT, len(GZIP))
    assert pretender.ranges == [f"bytes={len(GZIP)}-"]


async def test_a_part_that_was_left_beside_the_file_is_removed(pretender: Pretender, target: Path) -> None:
    """A run was killed between the rename of the decoded file and the removal of the part."""
    pretender.downloads = [breaks_after(pretender, HALF), *[says(503)] * 3]
    async with Client(pretender.url, retry_policy=QUICK) as client:
        with pytest.raises(GaveUp):
            await client.get(pretender.id).save(target, decode=True)
        pretender.downloads.clear()
        write(target, CONTENT)
        assert (await client.get(pretender.id).save(target, decode=True)).already_there == len(CONTENT)
    assert names(target) == {"users.csv"}


async def test_a_part_of_another_export_beside_the_file_stays(
    client: Client, pretender: Pretender, target: Path
) -> None:
    write(target, CONTENT)
    write(target.with_name("users.csv.part"), b"id\n")
    await client.get(pretender.id).save(target, decode=True)
    assert names(target) == {"users.csv", "users.csv.part"}


async def test_an_unknown_coding_is_a_value_error_before_any_request(pretender: Pretender, target: Path) -> None:
    def calls() -> None:
        with pytest.raises(ValueError, match="'br'"):
            pull(pretender.download, target, coding="br")
        with pytest.raises(ValueError, match="'br'"):
            export_to(target, url=pretender.url, coding="br")

    await asyncio.to_thread(calls)
    assert pretender.keys == []


async def test_the_blocking_functions_take_the_same_arguments(server: Server, target: Path) -> None:
    def script() -> None:
        where = {"id__lte": 7}
        assert export_to(target, url=server.url, where=where).rows == 7
        packed = target.with_name("users.csv.gz")
        saved = export_to(packed, url=server.url, where=where, coding="gzip")
        assert gzip.decompress(packed.read_bytes()) == target.read_bytes()
        assert (saved.rows, saved.bytes) == (7, packed.stat().st_size)
        url = f"{server.url}/exports/{saved.export_id}/download"
        assert pull(url, target, decode=True).already_there == target.stat().st_size
        assert pull(f"{url}.csv.gz", packed).already_there == saved.bytes
        with pytest.raises(LocalFileError, match="exists already"):
            pull(url, packed)

    await asyncio.to_thread(script)


async def test_the_status_tells_of_the_compressed_files(server: Server, target: Path) -> None:
    async with Client(server.url) as client:
        export = await client.export(where={"id__lte": 7})
        saved = await export.save(target, coding="zstd")
        found = (await export.status()).representations
        assert found
        assert {name: (made.state, made.bytes, made.sha256) for name, made in found.items()} == {
            "zstd": ("completed", saved.bytes, saved.sha256)
        }
