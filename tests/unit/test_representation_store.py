"""The table of representations: who may make one, what is known of its bytes, and what may be removed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from streamer.coding import Coding
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.times import JobTimes
from streamer.model import Representation
from streamer.postgres.driver import Pool
from streamer.spool.names import SpoolName
from tests.unit.process import Process

CODER = "coder 1.0"
DIGEST = b"d" * 32
FLUSHES = b"\x05\x07"


@pytest.fixture
def store(process: Process) -> RepresentationStore:
    return process.representation_store


@pytest.fixture
def other(pool: Pool) -> RepresentationStore:
    """That of another server, of the same folder."""
    return RepresentationStore(pool, uuid4(), JobTimes())


@pytest.fixture
async def name(process: Process) -> SpoolName:
    return SpoolName(await process.completed_export(), Coding.GZIP)


async def begun(
    store: RepresentationStore, name: SpoolName, process: Process, *, is_lost: bool = False
) -> Representation | None:
    return await store.begin(name, CODER, process.directory.id, is_lost=is_lost)


async def made(store: RepresentationStore, name: SpoolName, process: Process) -> Representation:
    row = await begun(store, name, process)
    assert row is not None
    row = await store.complete(row, 100, DIGEST, FLUSHES)
    assert row is not None
    return row


async def change(process: Process, name: SpoolName, assignment: str) -> None:
    await process.pool.execute(
        f"UPDATE streamer.representations SET {assignment} WHERE export_id = $1 AND coding = $2", *name
    )


async def test_first_making_is_new_and_no_other_server_may_make_it(
    process: Process, store: RepresentationStore, other: RepresentationStore, name: SpoolName
) -> None:
    row = await begun(store, name, process)
    assert row is not None
    assert (row.is_new, row.generation, row.state, row.coder, row.sha256) == (True, 1, "processing", CODER, None)
    assert await begun(other, name, process) is None
    assert await begun(other, SpoolName(name.export_id, Coding.ZSTD), process) is not None, "each coding is its own"


async def test_making_goes_on_while_its_lease_is_renewed_and_is_taken_over_after_it(
    process: Process, store: RepresentationStore, other: RepresentationStore, name: SpoolName
) -> None:
    row = await begun(store, name, process)
    assert row is not None
    await change(process, name, "lease_until = now() - interval '1 second'")
    await store.renew_lease(row)
    assert await begun(other, name, process) is None
    await change(process, name, "lease_until = now() - interval '1 second'")
    taken = await begun(other, name, process)
    assert taken is not None
    assert not taken.is_new, "clients may have a part of it"
    assert await store.complete(row, 100, DIGEST, b"") is None
    assert await store.restart(name, CODER) is None
    assert not await store.fail(row, 0, DIGEST, b"", "late")
    await store.renew_lease(row)
    assert await other.complete(taken, 100, DIGEST, b"") is not None


async def test_lease_of_a_dead_server_is_over_at_once(
    process: Process, store: RepresentationStore, other: RepresentationStore, name: SpoolName
) -> None:
    await begun(store, name, process)
    await other.expire_leases([uuid4()])
    assert await begun(other, name, process) is None
    await other.expire_leases([process.server_id])
    assert await begun(other, name, process) is not None


async def test_completed_representation_is_made_again_only_if_its_file_is_gone(
    process: Process, store: RepresentationStore, other: RepresentationStore, name: SpoolName
) -> None:
    before = await made(store, name, process)
    assert await begun(other, name, process) is None
    assert await other.begin(name, CODER, uuid4(), is_lost=True) is None, "the file is in another folder"
    again = await begun(other, name, process, is_lost=True)
    assert again is not None
    assert (again.length, again.sha256, again.flushes) == (100, DIGEST, FLUSHES)
    after = await other.complete(again, 100, DIGEST, FLUSHES)
    assert after is not None
    assert after.finished_at == before.finished_at, "the same bytes have the same date"


async def test_removed_file_is_made_again_in_any_folder(
    process: Process, store: RepresentationStore, other: RepresentationStore, name: SpoolName
) -> None:
    await made(store, name, process)
    assert await store.note_removed([name, SpoolName(uuid4(), Coding.GZIP)]) == [name]
    assert await store.note_removed([name]) == [], "it is not new"
    again = await other.begin(name, CODER, uuid4(), is_lost=False)
    assert again is not None
    assert (again.removed_at, again.sha256) == (None, DIGEST)


async def test_failure_notes_what_was_served(process: Process, store: RepresentationStore, name: SpoolName) -> None:
    row = await begun(store, name, process)
    assert row is not None
    assert await store.fail(row, 7, DIGEST, FLUSHES, "the disk is full")
    assert not await store.fail(row, 0, b"", b"", "twice")
    found = await store.get(name)
    assert found is not None
    assert (found.state, found.length, found.sha256, found.flushes) == ("failed", 7, DIGEST, FLUSHES)
    again = await begun(store, name, process)
    assert again is not None
    assert (again.is_new, again.length, again.sha256) == (False, 7, DIGEST)


async def test_next_generation_has_nothing_of_the_one_before(
    process: Process, store: RepresentationStore, name: SpoolName
) -> None:
    before = await made(store, name, process)
    await begun(store, name, process, is_lost=True)
    row = await store.restart(name, "coder 2.0")
    assert row is not None
    assert (row.generation, row.coder, row.length, row.sha256, row.flushes) == (2, "coder 2.0", 0, None, None)
    assert row.name != before.name
    assert await store.complete(replace(row, generation=1), 1, DIGEST, b"") is None
    after = await store.complete(row, 1, DIGEST, b"")
    assert after is not None
    assert after.finished_at is not None
    assert before.finished_at is not None
    assert after.finished_at > before.finished_at


@pytest.mark.parametrize("columns", [{"state": "failed"}, {"state": "cancelled"}, {"removed_at": datetime.now(UTC)}])
async def test_export_without_a_file_has_no_representation(
    process: Process, store: RepresentationStore, columns: dict[str, Any]
) -> None:
    export_id = await process.completed_export(**columns)
    assert await begun(store, SpoolName(export_id, Coding.GZIP), process) is None
    assert await begun(store, SpoolName(uuid4(), Coding.GZIP), process) is None


async def test_least_used_are_completed_ones_of_this_folder_that_nobody_reads(
    process: Process, store: RepresentationStore
) -> None:
    names = [SpoolName(await process.completed_export(), Coding.GZIP) for _ in range(5)]
    for name in names:
        await made(store, name, process)
    for age, name in enumerate(names):
        await change(process, name, f"used_at = now() + interval '{10 - age} hours'")
    await change(process, names[0], "state = 'processing'")
    await change(process, names[1], "removed_at = now()")
    await store.note_used(names[4])
    folder, read = process.directory.id, [names[3].export_id]
    first = await store.least_used(folder, None, read, 1)
    rest = await store.least_used(folder, first[-1], read, 10)
    assert [each[1] for each in (*first, *rest)] == [names[4].export_id, names[2].export_id]
    assert await store.least_used(uuid4(), None, [], 10) == []


async def test_use_is_noted_to_the_minute(process: Process, store: RepresentationStore, name: SpoolName) -> None:
    await made(store, name, process)
    for age, expected in ((timedelta(seconds=30), False), (timedelta(seconds=90), True)):
        before = datetime.now(UTC) - age
        await process.pool.execute("UPDATE streamer.representations SET used_at = $1", before)
        await store.note_used(name)
        assert (await process.pool.fetchval("SELECT used_at FROM streamer.representations") != before) is expected


GARBAGE = {
    "state = 'processing'": False,
    "state = 'completed'": False,
    "state = 'failed', sha256 = 'x'": True,
    "state = 'failed', sha256 = NULL": False,  # the file alone says what was served
    "state = 'completed', removed_at = now()": True,
    "state = 'completed', folder = gen_random_uuid()": True,
}


@pytest.mark.parametrize(("assignments", "is_garbage"), GARBAGE.items())
async def test_file_without_a_use_is_garbage(
    process: Process, store: RepresentationStore, name: SpoolName, assignments: str, is_garbage: bool
) -> None:
    await begun(store, name, process)
    await change(process, name, assignments)
    assert await store.garbage(process.directory.id, [name]) == [name] * is_garbage


async def test_file_of_an_export_that_is_gone_is_garbage_and_that_of_an_unknown_one_is_not(
    process: Process, store: RepresentationStore
) -> None:
    ids: list[UUID] = [
        await process.completed_export(removed_at=datetime.now(UTC)),
        await process.completed_export(state="failed"),
        await process.completed_export(),  # of which no representation was made
        uuid4(),
    ]
    names = [SpoolName(export_id, coding) for export_id in ids for coding in (Coding.GZIP, Coding.ZSTD)]
    assert set(await store.garbage(process.directory.id, names)) == set(names[:6])
