"""Representations in one process, with a real table and a real folder: places, ends, and what is noted of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from streamer.coding import COMPRESSED, Coding
from streamer.errors import ExportGone, InsufficientStorage, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.jobs.representations.active import ActiveRepresentation
from streamer.jobs.representations.making import MADE_ELSEWHERE, STOPPED
from streamer.model import EVERYBODY, Representation
from streamer.spool.names import SpoolName
from tests.codings import decoded
from tests.conftest import files_in
from tests.polling import until
from tests.unit.process import COMPRESSIONS, Process
from tests.unit.spools import published, soon

CONTENT = b"id\n" + b"".join(b"%d\n" % number for number in range(100_000))


async def whole(process: Process, name: SpoolName, *, patience: float = 0.0) -> bytes:
    """The file, once it is made."""
    active = await process.representations.begin(name, None, patience=patience)
    await soon(active.spool.end())
    assert active.spool.sealed
    return process.directory.file_of(*name).read_bytes()


@asynccontextmanager
async def growing(process: Process) -> AsyncIterator[ActiveExport]:
    """An export that has published a row, and goes on as the test wants. It fails in the end."""
    live = await process.claimed()
    live.spool.open()
    await published(live.spool, b"id\n1\n")
    live._begun.set()
    try:
        yield live
    finally:
        live.spool.fail("the test is over")


@asynccontextmanager
async def restarted(process: Process) -> AsyncIterator[Process]:
    """The process that is started after this one, on the same table and folder."""
    following = Process(process.pool, process.directory)
    try:
        yield following
    finally:
        await following.close()


async def row(process: Process, name: SpoolName) -> Representation:
    found = await process.representation_store.get(name)
    assert found is not None
    return found


async def ended(active: ActiveRepresentation) -> str | None:
    """Why it failed, or None."""
    await soon(active.spool.end())
    return active.spool.broken.result() if active.spool.broken.done() else None


@pytest.mark.parametrize("coding", COMPRESSED)
async def test_representation_of_a_completed_export_is_made_once(process: Process, coding: Coding) -> None:
    name = SpoolName(await process.completed_export(CONTENT), coding)
    first, second = await asyncio.gather(*(process.representations.begin(name, None) for _ in range(2)))
    assert first is second
    assert await ended(first) is None
    made = process.directory.file_of(*name).read_bytes()
    assert decoded(coding, made) == CONTENT
    found = await row(process, name)
    assert (found.state, found.length, found.sha256) == ("completed", len(made), hashlib.sha256(made).digest())
    await until(lambda: process.representations.active(name, EVERYBODY) is None, "it is not active")
    with await process.completed.acquire(name.export_id, EVERYBODY, name.coding) as opened:
        assert opened.length == len(made)


async def test_exports_without_a_snapshot_take_no_place_until_they_are_read(process: Process) -> None:
    waiting = [await process.claimed() for _ in range(COMPRESSIONS)]
    followed = [await process.representations.begin(SpoolName(live.id, Coding.GZIP), live) for live in waiting]
    completed = [SpoolName(await process.completed_export(CONTENT), Coding.GZIP) for _ in range(2)]
    assert decoded(Coding.GZIP, await whole(process, completed[0])) == CONTENT
    for live in waiting:
        live.spool.open()
        await published(live.spool, b"id\n1\n")
        live._begun.set()
    await asyncio.gather(*(soon(each.spool.moved_beyond(0)) for each in followed))
    with pytest.raises(Unavailable, match="too many"):
        await process.representations.begin(completed[1], None)
    for live in waiting:
        live.spool.fail("the test is over")
    assert decoded(Coding.GZIP, await whole(process, completed[1], patience=10.0)) == CONTENT


async def test_places_are_taken_by_what_is_made_and_given_back_at_its_end(process: Process) -> None:
    async with growing(process) as first, growing(process) as second, growing(process) as third:
        lives = (first, second, third)
        names = [SpoolName(live.id, Coding.GZIP) for live in lives]
        assert COMPRESSIONS == 2
        for name, live in zip(names[:2], lives, strict=False):
            await process.representations.begin(name, live)
        assert not process.representations.has_place
        with pytest.raises(Unavailable, match="too many"):
            await process.representations.begin(names[2], third)
        assert await process.representations.begin(names[0], first) is process.representations.active(
            names[0], EVERYBODY
        )
        waiting = asyncio.create_task(process.representations.begin(names[2], third, patience=10.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        first.spool.fail("the database went away")
        assert (await soon(waiting)).name == names[2]


async def test_place_of_what_cannot_be_begun_is_given_back(process: Process) -> None:
    gone = SpoolName(await process.completed_export(state="failed"), Coding.GZIP)
    for _ in range(COMPRESSIONS + 1):
        with pytest.raises(Exception, match="failed"):
            await process.representations.begin(gone, None)
    assert process.representations.has_place


async def test_representation_that_another_server_makes_is_refused(process: Process) -> None:
    name = SpoolName(await process.completed_export(CONTENT), Coding.GZIP)
    other = "INSERT INTO streamer.representations (export_id, coding, state, coder, server_id, lease_until, folder)"
    values = " VALUES ($1, $2, 'processing', 'x', $3, 'infinity', $3)"
    await process.pool.execute(other + values, *name, uuid4())
    with pytest.raises(Unavailable, match=MADE_ELSEWHERE):
        await process.representations.begin(name, None)
    assert process.representations.has_place


async def test_failed_export_fails_its_representation_and_its_file_is_removed(process: Process) -> None:
    async with growing(process) as live:
        name = SpoolName(live.id, Coding.ZSTD)
        active = await process.representations.begin(name, live)
        await soon(active.spool.moved_beyond(0))
        live.spool.fail("the database went away")
        assert await ended(active) == "the database went away"
        await until(lambda: not process.directory.file_of(*name).exists(), "the file is removed")
        assert (await row(process, name)).state == "failed"


async def test_stopped_representation_notes_what_was_served_and_is_made_again_with_the_same_bytes(
    process: Process,
) -> None:
    async with growing(process) as live:
        name = SpoolName(live.id, Coding.GZIP)
        active = await process.representations.begin(name, live)
        await soon(active.spool.moved_beyond(0))
        await until(lambda: 5 in (active.compression.flushes if active.compression else ()), "the row is flushed")
        served = process.directory.file_of(*name).read_bytes()
        await process.representations.stop()
        assert await ended(active) == STOPPED
        found = await row(process, name)
        assert (found.state, found.length, found.sha256) == ("failed", len(served), hashlib.sha256(served).digest())
        with pytest.raises(Unavailable, match="stopping"):
            await process.representations.begin(name, live)
        async with restarted(process) as next_process:
            again = await next_process.representations.begin(name, live)
            await soon(again.settled())
            assert again.proven.is_set()
            await soon(again.spool.moved_beyond(len(served) - 1))
            assert process.directory.file_of(*name).read_bytes().startswith(served)
            assert again.row.generation == 1


async def test_representation_that_failed_before_its_first_byte_is_no_other_one_when_it_is_made(
    process: Process,
) -> None:
    name = SpoolName(await process.completed_export(CONTENT), Coding.GZIP)
    process.directory.file_of(*name).mkdir()  # the file cannot be created
    active = await process.representations.begin(name, None)
    assert "could not be written" in str(await ended(active))
    process.directory.file_of(*name).rmdir()
    await until(lambda: process.representations.active(name, EVERYBODY) is None, "it has ended")
    assert decoded(Coding.GZIP, await whole(process, name)) == CONTENT
    assert (await row(process, name)).generation == 1


async def test_representation_that_was_taken_over_is_not_completed(process: Process) -> None:
    async with growing(process) as live:
        name = SpoolName(live.id, Coding.GZIP)
        active = await process.representations.begin(name, live)
        await soon(active.spool.moved_beyond(0))
        await process.pool.execute("UPDATE streamer.representations SET server_id = $1", uuid4())
        await live.spool.finish()
        live.spool.seal()
        assert await ended(active) == MADE_ELSEWHERE


async def test_lost_file_is_made_again_and_a_damaged_row_begins_a_new_generation(process: Process) -> None:
    name = SpoolName(await process.completed_export(CONTENT), Coding.ZSTD)
    made = await whole(process, name)
    await until(lambda: process.representations.active(name, EVERYBODY) is None, "it is not active")
    for generation in (1, 2):
        process.directory.file_of(*name).unlink()
        active = await process.representations.begin(name, None, is_lost=True)
        await soon(active.settled())
        assert await ended(active) is None
        assert process.directory.file_of(*name).read_bytes() == made
        assert (await row(process, name)).generation == generation
        await until(lambda: process.representations.active(name, EVERYBODY) is None, "it is not active")
        await process.pool.execute("UPDATE streamer.representations SET sha256 = sha256('other')")


async def test_representation_of_a_removed_export_goes_on_for_its_followers_alone(process: Process) -> None:
    async with growing(process) as live:
        name = SpoolName(live.id, Coding.GZIP)
        active = await process.representations.begin(name, live)
        process.representations.forget(live.id)
        assert process.representations.active(name, EVERYBODY) is None
        await live.spool.finish()
        live.spool.seal()
        assert await ended(active) is None
        assert (await row(process, name)).state == "processing"


async def test_sweep_removes_compressed_files_without_a_use_and_no_others(process: Process, tmp_path: Path) -> None:
    kept, gone = await process.completed_export(CONTENT), await process.completed_export(CONTENT, state="cancelled")
    for coding in COMPRESSED:
        await whole(process, SpoolName(kept, coding))
        process.directory.file_of(gone, coding).write_bytes(b"left")
    unknown = uuid4()
    process.directory.file_of(unknown, Coding.GZIP).write_bytes(b"of another table")
    await process.retention.sweep()
    assert files_in(tmp_path) == {f"{kept}{coding.suffix}" for coding in Coding} | {f"{unknown}.csv.gz"}


async def test_export_is_read_while_it_is_compressed_and_no_longer(process: Process) -> None:
    name = SpoolName(await process.completed_export(CONTENT), Coding.GZIP)
    active = await process.representations.begin(name, None)
    assert process.completed.is_read(name.export_id), "the file is not removed while it is compressed"
    await ended(active)
    await until(lambda: not process.completed.is_read(name.export_id), "nobody reads it any more")


async def test_representation_of_a_removed_export_cannot_be_begun(process: Process) -> None:
    name = SpoolName(await process.completed_export(CONTENT), Coding.GZIP)
    await whole(process, name)
    await process.retention.remove(name.export_id)
    assert not process.directory.file_of(*name).exists()
    with pytest.raises(ExportGone):
        await process.representations.begin(name, None)


async def test_representation_without_room_is_not_begun(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    name = SpoolName(await process.completed_export(CONTENT), Coding.GZIP)
    monkeypatch.setattr(process.directory._space, "_max_bytes", 1)
    with pytest.raises(InsufficientStorage):
        await process.representations.begin(name, None)
    assert process.files() == {name.export_id}, "no export is evicted for it"
    assert process.representations.has_place
