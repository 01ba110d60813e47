"""The rules of compressed representations: proven before a byte is sent again, alone in failure, first to be evicted.

The tables of downloads hold for each representation; the rules here are those that an export does not have.
"""

import asyncio
import hashlib
import resource as resource_limits
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from streamer.coding import COMPRESSED, Coding
from streamer.config import Size
from streamer.jobs.times import JobTimes
from streamer.server.tuning import Tuning
from tests.codings import Decoder, decoded, resource
from tests.gates import HEADER
from tests.held import BULK, SMALL, Held, HeldExport, gated_server, lone_gated_server, scratch_database
from tests.integration.following import files, represented
from tests.polling import until
from tests.rawhttp import Answer, End, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP = 2
MOMENT = 0.1  # seconds in which nothing may come
UNCACHED = Tuning(jobs=JobTimes(cache_lifetime=0.0), recount=0.0)
SERVED_AT_A_GATE = """
    CREATE FUNCTION wait_to_serve() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_lock_shared(19), pg_advisory_unlock_shared(19);
        RETURN NEW;
    END $$;
    CREATE TRIGGER waiting BEFORE UPDATE ON streamer.exports FOR EACH ROW
    WHEN (NEW.served AND NOT OLD.served) EXECUTE FUNCTION wait_to_serve()
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    folder = tmp_path_factory.mktemp("representations")
    async with lone_gated_server(postgres, folder, compressions=8, tuning=UNCACHED) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def held(server: Held) -> AsyncIterator[Held]:
    """The server. It has no work before and after the test."""
    yield server
    await server.settle()


@pytest.fixture(params=COMPRESSED)
def coding(request: pytest.FixtureRequest) -> Coding:
    found: Coding = request.param
    return found


def file_of(export: HeldExport, coding: Coding) -> Path:
    return export.held.spool / f"{export.id}{coding.suffix}"


def files_of(export: HeldExport) -> set[str]:
    """The suffixes of its files."""
    return {path.name.removeprefix(export.id) for path in export.held.spool.glob(f"{export.id}*")}


async def sealed(export: HeldExport, coding: Coding) -> Answer:
    """The compressed file of a completed export, which is made if it is not there yet."""
    await ask(export.held.url, "HEAD", resource(export.id, coding))
    answer = await ask(export.held.url, "GET", resource(export.id, coding))
    assert (answer.status, int(answer["Content-Length"])) == (200, len(answer.body)), answer.body[:200]
    return answer


async def followed_to_the_end(held: Held, coding: Coding) -> tuple[HeldExport, bytes]:
    """A completed export, and its compressed file, which was made and flushed while the export grew."""
    export = await held.export(at=1)
    async with connection(held.url) as client:
        await client.send("GET", resource(export.id, coding))
        _, body = await client.begin()
        decoder = Decoder(body, coding)
        for step in range(1, SMALL.last):
            await held.open(step)
            await decoder.grow_to(len(SMALL.through(step)))
        await held.open()
        assert await decoder.finish() is End.WHOLE
    await export.becomes("completed")
    return export, bytes(body.received)


async def row_of(export: HeldExport, coding: Coding) -> Any:
    return await export.held.gates.connection.fetchrow(
        "SELECT * FROM streamer.representations WHERE export_id = $1 AND coding = $2", UUID(export.id), coding
    )


async def change(export: HeldExport, coding: Coding, assignment: str) -> None:
    """Changes the row of the representation."""
    await export.held.gates.connection.execute(
        f"UPDATE streamer.representations SET {assignment} WHERE export_id = $1 AND coding = $2",
        *(UUID(export.id), coding),
    )


async def representations(export: HeldExport) -> dict[str, Any]:
    """As the status tells of them."""
    found: dict[str, Any] = (await export.status()).get("representations", {})
    return found


def digest_of(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()


# Made


async def test_head_of_a_completed_export_waits_for_the_length_of_the_file(held: Held, coding: Coding) -> None:
    export = await held.completed(BULK)
    head = await ask(held.url, "HEAD", resource(export.id, coding))
    answer = await ask(held.url, "GET", resource(export.id, coding))
    assert int(head["Content-Length"]) == len(answer.body) > 0
    for field in ("ETag", "Repr-Digest", "Last-Modified", "Accept-Ranges"):
        assert head[field] == answer[field]


async def test_head_of_a_live_export_begins_the_file_and_has_no_length(held: Held, coding: Coding) -> None:
    export = await held.export(at=STEP)
    head = await ask(held.url, "HEAD", resource(export.id, coding))
    assert (head.status, head["ETag"]) == (200, (await representations(export))[coding]["etag"])
    assert not head.head.names & {"content-length", "repr-digest", "last-modified"}


# Made again


Lose = Callable[[HeldExport, Coding], Awaitable[None]]


async def delete_file(export: HeldExport, coding: Coding) -> None:
    file_of(export, coding).unlink()


async def damage_file(export: HeldExport, coding: Coding) -> None:
    content = bytearray(file_of(export, coding).read_bytes())
    content[len(content) // 2] ^= 1
    file_of(export, coding).chmod(0o640)
    file_of(export, coding).write_bytes(content)


async def shorten_file(export: HeldExport, coding: Coding) -> None:
    file_of(export, coding).chmod(0o640)
    file_of(export, coding).write_bytes(file_of(export, coding).read_bytes()[:-1])


async def evict(export: HeldExport, coding: Coding) -> None:
    await change(export, coding, "removed_at = now()")
    await delete_file(export, coding)


async def die_while_it_is_made_again(export: HeldExport, coding: Coding) -> None:
    """As kill -9 leaves it: a part of the file, and a lease of a server that is no more."""
    assignments = f"state = 'processing', server_id = '{uuid4()}', lease_until = '-infinity'"
    await change(export, coding, assignments)
    content = file_of(export, coding).read_bytes()
    file_of(export, coding).chmod(0o640)
    file_of(export, coding).write_bytes(content[: len(content) // 3])


@pytest.mark.parametrize("lose", [delete_file, damage_file, shorten_file, evict, die_while_it_is_made_again])
async def test_lost_file_is_made_again_with_the_same_bytes(held: Held, coding: Coding, lose: Lose) -> None:
    export, whole = await followed_to_the_end(held, coding)
    before = await sealed(export, coding)
    assert len((await row_of(export, coding))["flushes"]) > SMALL.last - 2, "it was flushed while the export grew"
    await lose(export, coding)
    rest = await ask(held.url, "GET", resource(export.id, coding), {"Range": "bytes=500-"})
    assert (rest.status, rest["ETag"]) == (206, before["ETag"])
    assert digest_of(whole[:500] + rest.body) == digest_of(whole)
    after = await sealed(export, coding)
    assert digest_of(after.body) == digest_of(before.body) == digest_of(whole)
    for field in ("ETag", "Last-Modified", "Repr-Digest"):
        assert after[field] == before[field]
    assert (await row_of(export, coding))["generation"] == 1


async def test_making_that_a_killed_server_has_begun_goes_on_with_the_bytes_that_it_has_left(
    held: Held, coding: Coding
) -> None:
    """Nothing but the file says what was served."""
    export = await held.completed(BULK)
    whole = (await sealed(export, coding)).body
    await die_while_it_is_made_again(export, coding)
    await change(export, coding, "sha256 = NULL, flushes = NULL, bytes = 0")
    rest = await ask(held.url, "GET", resource(export.id, coding), {"Range": "bytes=500000-"})
    assert (rest.status, digest_of(whole[:500_000] + rest.body)) == (206, digest_of(whole))
    assert (await row_of(export, coding))["generation"] == 1


async def test_nothing_is_sent_before_the_bytes_that_were_served_are_made_again(held: Held, coding: Coding) -> None:
    made = files(coding, SMALL)
    export = await represented(await held.export(at=STEP), coding, served=made[STEP + 1])
    async with connection(held.url) as whole, connection(held.url) as ranged, connection(held.url) as old:
        await whole.send("GET", export.download)
        await ranged.send("GET", export.download, {"Range": "bytes=5-9"})
        await old.send("GET", export.download, version="1.0")
        assert all([await client.silent(MOMENT) for client in (whole, ranged, old)])
        assert file_of(export, coding).read_bytes() == made[STEP], "it is made, and not sent"
        await held.open(STEP + 1)
        assert (await ranged.answer()).body == made[SMALL.last][5:10]
        _, body = await whole.begin()
        assert await body.grow_to(len(made[STEP + 1])) == made[STEP + 1]
        await held.open()
        assert digest_of(await body.whole()) == digest_of((await old.answer()).body) == digest_of(export.whole)


async def test_failed_making_is_made_again_for_the_clients_that_have_a_part_of_it(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    """The server is stopped while one is made: its bytes are noted. The export is completed, so it stays."""
    async with scratch_database(postgres) as database:
        async with gated_server(database, tmp_path) as held:
            export = await held.completed(BULK)
            async with connection(held.url, receive=16_384) as client:
                await client.send("GET", resource(export.id, coding))
                _, body = await client.begin()
                begun = await body.grow_to(1000)
                await held.stop()
        async with gated_server(database, tmp_path) as again:
            found = HeldExport(again, BULK, export.id)
            rest = await ask(again.url, "GET", resource(export.id, coding), {"Range": f"bytes={len(begun)}-"})
            assert rest.status == 206
            assert digest_of(decoded(coding, begun + rest.body)) == digest_of(BULK.whole)
            assert (await row_of(found, coding))["generation"] == 1


# Other bytes


async def damage_digest(export: HeldExport, coding: Coding) -> None:
    await change(export, coding, "sha256 = sha256('other')")


async def change_coder(export: HeldExport, coding: Coding) -> None:
    await change(export, coding, "coder = 'another coder 1.0'")


async def damage_flushes(export: HeldExport, coding: Coding) -> None:
    await change(export, coding, r"flushes = '\x80'")


async def forget_flushes(export: HeldExport, coding: Coding) -> None:
    await change(export, coding, "flushes = NULL")


@pytest.mark.parametrize("alter", [damage_digest, change_coder, damage_flushes, forget_flushes])
async def test_other_bytes_have_a_new_tag_and_the_file_of_its_own_is_gone(
    held: Held, coding: Coding, alter: Lose
) -> None:
    export, _ = await followed_to_the_end(held, coding)
    before = await sealed(export, coding)
    await alter(export, coding)
    await delete_file(export, coding)
    for fields in ({}, {"Range": "bytes=500-"}, {"If-Range": before["ETag"], "Range": "bytes=500-"}):
        gone = await ask(held.url, "GET", resource(export.id, coding), fields)
        assert gone.status == 410
    assert (await ask(held.url, "HEAD", resource(export.id, coding))).status == 410
    await ask(held.url, "HEAD", export.download, {"Accept-Encoding": coding})
    after = await ask(held.url, "GET", export.download, {"Accept-Encoding": coding})
    assert (after.status, after["Content-Encoding"]) == (200, coding)
    assert after["ETag"] != before["ETag"]
    assert digest_of(decoded(coding, after.body)) == digest_of(SMALL.whole)
    assert (await row_of(export, coding))["generation"] == 2
    assert (await representations(export))[coding]["etag"] == after["ETag"]
    resumed = {"Accept-Encoding": coding, "Range": "bytes=500-", "If-Range": before["ETag"]}
    answer = await ask(held.url, "GET", export.download, resumed)
    assert (answer.status, digest_of(answer.body)) == (200, digest_of(after.body)), "never a part of other bytes"


async def test_other_bytes_than_were_served_of_a_live_export_are_never_sent_behind_them(
    held: Held, coding: Coding
) -> None:
    made = files(coding, SMALL)
    export = await represented(await held.export(at=STEP), coding, served=made[STEP][:-1] + b"!")
    assert (await ask(held.url, "GET", export.download, {"Range": f"bytes={len(made[STEP])}-"})).status == 410
    async with connection(held.url) as client:
        await client.send("GET", f"/exports/{export.id}/download", {"Accept-Encoding": coding})
        head, body = await client.begin()
        await held.open()
        assert digest_of(decoded(coding, await body.whole())) == digest_of(SMALL.whole)
    assert (head.status, head["Content-Encoding"]) == (200, coding)
    assert head["ETag"] != export.etag


# Room


@asynccontextmanager
async def small_server(postgres: str, spool: Path, room: int) -> AsyncIterator[Held]:
    """A server whose folder is full with `room` bytes."""
    async with lone_gated_server(postgres, spool, tuning=UNCACHED, spool_max_bytes=Size(room)) as held:
        yield held


async def test_representation_is_evicted_before_an_export_and_made_again_with_the_same_bytes(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    length = len(SMALL.whole)
    async with small_server(postgres, tmp_path, 2 * length + 1000) as held:
        export = await held.completed(SMALL)
        before = await sealed(export, coding)
        other = await held.completed(SMALL)  # by which the folder is beyond its limit
        assert (await ask(held.url, "POST", f"/exports/csv?dataset={SMALL.name}")).status in (202, 507)
        assert files_of(export) == {".csv"}
        assert files_of(other) == {".csv"}
        assert await representations(export) == {}
        await held.settle()
        assert (await ask(held.url, "DELETE", f"/exports/{other.id}")).status == 204
        assert digest_of((await sealed(export, coding)).body) == digest_of(before.body)


async def test_representation_evicts_others_and_never_an_export(postgres: str, tmp_path: Path) -> None:
    compressed = len(files(Coding.GZIP, SMALL)[SMALL.last])
    async with small_server(postgres, tmp_path, 2 * len(SMALL.whole) + compressed // 2) as held:
        first, second = await held.completed(SMALL), await held.completed(SMALL)
        await sealed(first, Coding.GZIP)
        await sealed(second, Coding.GZIP)
        assert (files_of(first), files_of(second)) == ({".csv"}, {".csv", ".csv.gz"})


async def test_full_folder_offers_no_coding_and_has_no_compressed_files(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    async with small_server(postgres, tmp_path, len(SMALL.whole)) as held:
        export = await held.completed(SMALL)
        for method in ("GET", "HEAD"):
            assert (await ask(held.url, method, resource(export.id, coding))).status == 507
            answer = await ask(held.url, method, export.download, {"Accept-Encoding": coding})
            assert (answer.status, answer.get("Content-Encoding")) == (200, None)
            only = {"Accept-Encoding": f"{coding}, identity;q=0"}
            assert (await ask(held.url, method, export.download, only)).status == 507
        assert files_of(export) == {".csv"}
        assert digest_of((await ask(held.url, "GET", export.download)).body) == digest_of(SMALL.whole)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process, in which the server is, grows beyond so many bytes: the disk is full."""
    soft, hard = resource_limits.getrlimit(resource_limits.RLIMIT_FSIZE)
    resource_limits.setrlimit(resource_limits.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource_limits.setrlimit(resource_limits.RLIMIT_FSIZE, (soft, hard))


async def test_representation_that_cannot_be_written_fails_alone_and_is_resumed_when_it_can(
    held: Held, coding: Coding
) -> None:
    """Its followers see it, and those of the export get the whole."""
    export = await held.export(BULK, at=1)
    async with connection(held.url) as plain, connection(held.url) as client:
        await plain.send("GET", export.download)
        _, identity = await plain.begin()
        with small_files(1_000_000):
            await client.send("GET", resource(export.id, coding))
            _, body = await client.begin()
            assert await body.finish() is End.CLOSED
        await until(lambda: files_of(export) == {".csv"}, "the file of what failed is removed")
        assert (await export.status())["status"] == "processing"
        assert await representations(export) == {}
        begun = bytes(body.received)
        async with connection(held.url) as again:
            await again.send("GET", resource(export.id, coding), {"Range": f"bytes={len(begun)}-"})
            head, rest = await again.begin()
            assert head.status == 206
            await rest.grow_to(1000)
            await held.open()
            assert digest_of(decoded(coding, begun + await rest.whole())) == digest_of(BULK.whole)
        assert digest_of(await identity.whole()) == digest_of(BULK.whole)


# The end of an export


async def test_delete_removes_all_files(held: Held) -> None:
    export = await held.completed(SMALL)
    for coding in COMPRESSED:
        await sealed(export, coding)
    assert files_of(export) == {coding.suffix for coding in Coding}
    await export.cancel()
    assert files_of(export) == set()
    assert await representations(export) == {}
    for coding in COMPRESSED:
        assert (await ask(held.url, "GET", resource(export.id, coding))).status == 410


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_export_that_ends_badly_leaves_no_file(held: Held, coding: Coding, end: str) -> None:
    export = await held.export(at=STEP)
    async with connection(held.url) as client:
        await client.send("GET", resource(export.id, coding))
        _, body = await client.begin()
        decoder = Decoder(body, coding)
        await decoder.grow_to(len(SMALL.through(STEP)))
        await (export.fail() if end == "failed" else export.cancel())
        assert await decoder.finish() is End.CLOSED
    assert not decoder.whole
    assert decoder.decoded == SMALL.through(STEP)
    await until(lambda: files_of(export) == set(), "a file is left")


# Served, and abandoned


async def test_export_is_marked_as_served_before_its_first_row_leaves_compressed(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    async with lone_gated_server(postgres, tmp_path) as held:
        hand = held.gates.connection
        await hand.execute(SERVED_AT_A_GATE)
        export = await held.export(at=STEP)
        await hand.execute("SELECT pg_advisory_lock(19)")
        async with connection(held.url) as client:
            await client.send("GET", resource(export.id, coding))

            async def waits() -> bool:
                return bool(await hand.fetchval("SELECT count(*) FROM pg_locks WHERE objid = 19 AND NOT granted"))

            await until(waits, "the export is about to be marked as served")
            assert len(file_of(export, coding).read_bytes()) < len(HEADER) + 50, "no row is in the file"
            assert not await hand.fetchval("SELECT served FROM streamer.exports")
            await hand.execute("SELECT pg_advisory_unlock(19)")
            _, body = await client.begin()
            decoder = Decoder(body, coding)
            assert await decoder.grow_to(len(SMALL.through(STEP))) == SMALL.through(STEP)
            assert await hand.fetchval("SELECT served FROM streamer.exports")


async def test_compressor_alone_does_not_keep_an_export_from_being_abandoned_and_its_clients_do(
    postgres: str, tmp_path: Path
) -> None:
    async with lone_gated_server(postgres, tmp_path, abandoned_export_timeout=0.3) as held:
        await held.shut()
        await held.open(STEP)
        async with connection(held.url) as client, connection(held.url) as other:
            await client.send("GET", f"/exports/csv?dataset={SMALL.name}", {"Accept-Encoding": "gzip"})
            head, body = await client.begin()
            export = HeldExport(held, SMALL, head["X-Export-Id"])
            decoder = Decoder(body, Coding.GZIP)
            await decoder.grow_to(len(SMALL.through(STEP)))
            await other.send("GET", resource(export.id, Coding.GZIP))
            _, second = await other.begin()
            client.vanish()
            await asyncio.sleep(0.6)  # longer than it takes to abandon an export
            assert (await export.status())["status"] == "processing"
            other.vanish()
            await export.becomes("cancelled")
            assert second.end is None


# Two servers


async def test_of_two_servers_with_one_folder_only_one_makes_a_representation(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    only = {"Accept-Encoding": f"{coding}, identity;q=0"}
    async with (
        scratch_database(postgres) as database,
        gated_server(database, tmp_path, tuning=UNCACHED) as first,
        gated_server(database, tmp_path, tuning=UNCACHED) as second,
    ):
        export = await first.completed(SMALL)
        whole = (await sealed(export, coding)).body
        await change(export, coding, f"state = 'processing', server_id = '{uuid4()}', lease_until = 'infinity'")
        for server in (first, second):
            identity = await ask(server.url, "GET", export.download, {"Accept-Encoding": coding})
            assert (identity.status, identity.get("Content-Encoding")) == (200, None)
            for target, fields in ((export.download, only), (resource(export.id, coding), {})):
                refused = await ask(server.url, "GET", target, fields)
                assert (refused.status, int(refused["Retry-After"]) > 0) == (503, True)
        await change(export, coding, "state = 'completed'")
        for server in (first, second):
            answer = await sealed(HeldExport(server, SMALL, export.id), coding)
            assert digest_of(answer.body) == digest_of(whole)


async def test_two_servers_that_are_asked_at_once_serve_the_same_bytes(
    postgres: str, tmp_path: Path, coding: Coding
) -> None:
    async with (
        scratch_database(postgres) as database,
        gated_server(database, tmp_path, tuning=UNCACHED) as first,
        gated_server(database, tmp_path, tuning=UNCACHED) as second,
    ):
        export = await first.completed(BULK)
        asked = (ask(server.url, "GET", resource(export.id, coding)) for server in (first, second) for _ in range(3))
        answers = await asyncio.gather(*asked)
        assert {answer.status for answer in answers} <= {200, 503}
        bodies = {digest_of(answer.body) for answer in answers if answer.status == 200}
        assert bodies == {digest_of((await sealed(export, coding)).body)}
        assert (await row_of(export, coding))["generation"] == 1


# The status


async def test_status_shows_the_representations_that_exist(held: Held) -> None:
    export = await held.export(at=STEP)
    assert await representations(export) == {}
    async with connection(held.url) as client:
        await client.send("GET", resource(export.id, Coding.GZIP))
        head, body = await client.begin()
        await body.grow_to(100)
        (making,) = (await representations(export)).values()
        assert (making["state"], making["etag"], making.get("sha256")) == ("processing", head["ETag"], None)
        await held.open()
        whole = await body.whole()
    made = (await representations(export))["gzip"]
    expected = {"state": "completed", "etag": head["ETag"], "bytes": len(whole), "sha256": digest_of(whole)}
    assert made == expected
    await sealed(export, Coding.ZSTD)
    assert (await representations(export)).keys() == {"gzip", "zstd"}
    listed = (await ask(held.url, "GET", "/exports?limit=1")).json()["exports"][0]
    assert listed["representations"]["gzip"] == made
