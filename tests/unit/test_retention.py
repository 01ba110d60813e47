"""What is expired, evicted, swept and forgotten, with a real table and a real folder."""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from streamer.errors import ExportFailure, InsufficientStorage, NotFound, TransientFailure, Unavailable
from streamer.jobs.retention import BATCH, FULL
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY
from streamer.postgres.driver import Pool
from streamer.spool.directory import SpoolDirectory
from tests.polling import until
from tests.unit.process import HOUR, Process, until_locked_out
from tests.unit.spools import soon

CONTENT = b"id\n1\n"
BLOCK, FREE_BLOCKS = 4096, 10  # of a disk; bytes and blocks
MAX_BYTES = 3 * len(CONTENT)  # of a folder that is full with three exports


@pytest.fixture
async def small(pool: Pool, tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[Process]:
    """A process whose folder has room for less than three exports and one byte."""
    directory = SpoolDirectory(tmp_path, executor, max_bytes=MAX_BYTES, recount=0.0)
    directory.claim(uuid4())
    process = Process(pool, directory)
    yield process
    await process.close()
    directory.close()


async def aged(process: Process, age: timedelta, **columns: object) -> UUID:
    return await process.completed_export(CONTENT, finished_at=datetime.now(UTC) - age, **columns)


async def removed(process: Process, *exports: UUID) -> bool:
    """Whether all the rows say that their files are removed."""
    return all([(await process.row(export_id))["removed_at"] is not None for export_id in exports])


async def test_an_export_expires_after_its_time_to_live(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamer.jobs.retention")
    old, young = await aged(process, 2 * HOUR), await aged(process, HOUR / 2)
    await process.retention.expire()
    assert process.files() == {young}
    assert await removed(process, old)
    assert not await removed(process, young)
    assert [record.message for record in caplog.records] == [f"export {old} has expired"]


async def test_more_than_one_batch_expires(process: Process) -> None:
    """The last batch is not full."""
    for _ in range(3):
        await aged(process, 2 * HOUR)
    await process.pool.execute(
        "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, folder, finished_at)"
        " SELECT gen_random_uuid(), 'completed', '{}', gen_random_uuid(), now(), $1, now() - interval '1 day'"
        " FROM generate_series(1, $2)",
        process.directory.id,
        BATCH,
    )
    await process.retention.expire()
    assert process.files() == set()
    assert await process.pool.fetchval("SELECT count(*) FROM streamer.exports WHERE removed_at IS NULL") == 0


async def test_an_export_that_is_downloaded_does_not_expire(process: Process) -> None:
    export_id = await aged(process, 2 * HOUR)
    with process.completed.reading(export_id):
        await process.retention.expire()
        assert process.files() == {export_id}
    await process.retention.expire()
    assert process.files() == set()


async def test_a_download_that_began_after_the_list_was_read_keeps_its_file(process: Process, pool: Pool) -> None:
    read, other = await aged(process, 2 * HOUR), await aged(process, 2 * HOUR)
    async with pool.acquire() as connection:
        await (lock := connection.transaction()).start()
        await connection.execute("LOCK TABLE streamer.exports")
        expiring = asyncio.create_task(process.retention.expire())
        await until_locked_out(pool)
        with process.completed.reading(read):
            await lock.commit()
            await soon(expiring)
            assert process.files() == {read}
    assert await removed(process, other)
    assert not await removed(process, read)


async def test_the_row_of_a_removed_file_is_not_served_from_memory(process: Process) -> None:
    export_id = await process.completed_export(CONTENT)
    (await process.completed.acquire(export_id, EVERYBODY)).release()
    await process.retention.remove(export_id)
    assert await removed(process, export_id)
    assert (process.files(), process.completed._kept, process.completed._verified) == (set(), {}, {})


async def test_a_sweep_removes_files_that_no_client_can_ask_for(process: Process) -> None:
    kept = await process.completed_export(CONTENT)
    gone = await process.completed_export(CONTENT, removed_at=datetime.now(UTC))
    failed = await process.completed_export(CONTENT, state="failed")
    stranger = uuid4()
    process.directory.file_of(stranger).write_bytes(CONTENT)
    await process.retention.sweep()
    assert process.files() == {kept, stranger}
    assert not {gone, failed} & process.files()


async def test_a_sweep_finds_the_folder_of_exports_of_older_versions(process: Process) -> None:
    export_id = await process.completed_export(CONTENT, folder=None)
    await process.retention.sweep()
    assert (await process.row(export_id))["folder"] == process.directory.id


async def test_a_sweep_leaves_what_this_process_writes(process: Process) -> None:
    active = await process.claimed()
    active.spool.open()
    await process.store.fail(active.id, active.epoch, "the reason", 0.0)
    await process.retention.sweep()
    assert process.files() == {active.id}
    active.spool.fail("the reason")
    await process.retention.sweep()
    assert process.files() == set()


async def test_a_sweep_works_in_batches(process: Process) -> None:
    ids = [uuid4() for _ in range(BATCH + 2)]
    await process.pool.execute(
        "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until)"
        " SELECT id, 'failed', '{}', id, now() FROM unnest($1::uuid[]) AS ids (id)",
        ids,
    )
    for export_id in ids:
        process.directory.file_of(export_id).touch()
    await process.retention.sweep()
    assert process.files() == set()


async def test_old_rows_without_a_file_are_deleted(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamer.jobs.retention")
    old, young = [
        await process.completed_export(CONTENT, removed_at=datetime.now(UTC) - age) for age in (3 * HOUR, HOUR)
    ]
    with_file = await process.completed_export(CONTENT, removed_at=datetime.now(UTC) - 3 * HOUR)
    for export_id in (old, young):
        process.directory.file_of(export_id).unlink()
    await process.retention.delete_history()
    with pytest.raises(NotFound):
        await process.store.get(old, EVERYBODY)
    assert await removed(process, young, with_file)
    assert [record.message.split()[1] for record in caplog.records] == ["1"]
    caplog.clear()
    await process.retention.delete_history()
    assert caplog.records == []


async def test_history_is_deleted_page_by_page(process: Process) -> None:
    """The first page has files, and must not hide the second."""
    with_file = [
        await process.completed_export(CONTENT, removed_at=datetime.now(UTC) - timedelta(days=2)) for _ in range(2)
    ]
    await process.pool.execute(
        "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, finished_at)"
        " SELECT gen_random_uuid(), 'failed', '{}', gen_random_uuid(), now(), now() - interval '1 day'"
        " FROM generate_series(1, $1)",
        BATCH,
    )
    await process.retention.delete_history()
    assert {row["id"] for row in await process.pool.fetch("SELECT id FROM streamer.exports")} == set(with_file)


async def test_files_without_a_row_are_named_and_stay(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    await process.completed_export(CONTENT)
    stranger = uuid4()
    process.directory.file_of(stranger).write_bytes(CONTENT)
    await process.retention.name_unknown()
    assert [record.message for record in caplog.records] == [
        f"{process.directory.file_of(stranger)} is not in the exports table, and is left alone"
    ]
    assert stranger in process.files()


async def test_room_is_made_by_the_least_recently_used_exports(
    small: Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamer.jobs.retention")
    used, oldest, young = [await aged(small, age) for age in (3 * HOUR, 2 * HOUR, HOUR)]
    await small.change(used, used_at=datetime.now(UTC))
    await small.retention.make_room()
    assert small.files() == {used, young}
    assert await removed(small, oldest)
    assert [record.message for record in caplog.records] == [f"export {oldest} was removed to make room"]


async def test_nothing_is_evicted_while_there_is_room(small: Process) -> None:
    exports = {await aged(small, HOUR) for _ in range(2)}
    await small.retention.make_room()
    await small.retention.keep_room()
    assert small.files() == exports


async def test_room_is_made_as_often_as_the_folder_is_full(small: Process) -> None:
    for _ in range(2):
        for _ in range(3):
            await aged(small, HOUR)
        await small.retention.make_room()
        assert len(small.files()) == 2


async def test_a_disk_that_frees_nothing_is_waited_for_before_another_export_is_evicted(
    pool: Pool, tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems free the space of a removed file later."""
    directory = SpoolDirectory(tmp_path, executor, reserve=FREE_BLOCKS * BLOCK)
    directory.claim(uuid4())
    process = Process(pool, directory)
    exports = [await aged(process, age * HOUR) for age in (3, 2, 1)]
    full = os.statvfs_result((BLOCK, BLOCK, 1000, FREE_BLOCKS, FREE_BLOCKS, 1000, 1000, 1000, 0, 255))
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)
        for _ in range(2):
            with pytest.raises(InsufficientStorage):
                await process.retention.make_room()
    assert process.files() == set(exports[1:])
    await process.retention.make_room()
    assert process.files() == set(exports[1:])
    await process.close()
    directory.close()


async def test_spools_are_counted_again_before_an_export_is_evicted(
    pool: Pool, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """Another server of the folder may have removed files since the last count."""
    directory = SpoolDirectory(tmp_path, executor, max_bytes=MAX_BYTES, recount=3600.0)
    directory.claim(uuid4())
    process = Process(pool, directory)
    exports = [await aged(process, HOUR) for _ in range(3)]
    await directory.spools()
    directory.file_of(exports[0]).unlink()
    await process.retention.make_room()
    assert process.files() == set(exports[1:])
    await process.close()
    directory.close()


async def test_as_many_exports_are_evicted_as_their_sizes_demand(small: Process) -> None:
    exports = [await aged(small, age * HOUR) for age in range(9, 0, -1)]
    await small.retention.make_room()
    assert small.files() == set(exports[-2:])


async def test_nothing_is_evicted_if_all_evictions_would_not_do(small: Process) -> None:
    export_id, stranger = await aged(small, HOUR), uuid4()
    small.directory.file_of(stranger).write_bytes(bytes(MAX_BYTES))
    with pytest.raises(InsufficientStorage, match="no room"):
        await small.retention.make_room()
    with pytest.raises(ExportFailure, match="no room"):
        await small.retention.keep_room()
    assert small.files() == {export_id, stranger}


async def test_an_export_that_is_downloaded_is_not_evicted(small: Process) -> None:
    read, other = await aged(small, 2 * HOUR, bytes=2 * len(CONTENT)), await aged(small, HOUR)
    small.directory.file_of(read).write_bytes(2 * CONTENT)
    with small.completed.reading(read):
        await small.retention.make_room()
        assert small.files() == {read}
        small.directory.file_of(read).write_bytes(3 * CONTENT)
        with pytest.raises(InsufficientStorage) as error:
            await small.retention.make_room()
    assert error.value.sentence == FULL
    assert await removed(small, other)


async def test_garbage_is_swept_before_an_export_is_refused(small: Process) -> None:
    garbage = await aged(small, HOUR, removed_at=datetime.now(UTC))
    small.directory.file_of(garbage).write_bytes(bytes(MAX_BYTES))
    await small.retention.make_room()
    assert small.files() == set()


async def test_nothing_else_is_evicted_while_a_file_cannot_be_removed(
    small: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = [await aged(small, age * HOUR) for age in (4, 3, 2, 1)]
    stuck, unlink = small.directory.file_of(exports[0]), os.unlink

    def refuse(path: Path) -> None:
        if path == stuck:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        for _ in range(2):
            with pytest.raises(InsufficientStorage):
                await small.retention.make_room()
        assert small.files() == set(exports)
        assert not await removed(small, *exports[1:2])
    await small.retention.make_room()
    assert small.files() == set(exports[2:])


async def test_concurrent_exports_evict_one_after_the_other(small: Process) -> None:
    exports = [await aged(small, age * HOUR) for age in (4, 3, 2, 1)]
    await asyncio.gather(*(small.retention.make_room() for _ in range(5)))
    assert small.files() == set(exports[2:])


async def test_room_that_is_made_for_too_long_is_unavailable(pool: Pool, small: Process) -> None:
    for _ in range(3):
        await aged(small, HOUR)
    impatient = Process(pool, small.directory, times=JobTimes(statement_timeout=0.1))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports")
        with pytest.raises(Unavailable, match="does not answer"):
            await impatient.retention.make_room()
        with pytest.raises(TransientFailure, match="no room could be made: the database does not answer"):
            await impatient.retention.keep_room()
    await impatient.close()


async def test_a_folder_that_cannot_be_used_is_unavailable(small: Process) -> None:
    await aged(small, HOUR)
    folder = small.directory.file_of(uuid4()).parent
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_bytes(b"")
    with pytest.raises(Unavailable, match="the folder of the exports cannot be used: Not a directory"):
        await small.retention.make_room()
    with pytest.raises(TransientFailure, match="no room could be made"):
        await small.retention.keep_room()
    folder.unlink()
    aside.rename(folder)


async def test_the_periodic_tasks_go_on_after_an_error(
    process: Process, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    hasty = Process(process.pool, process.directory, times=JobTimes(sweep_interval=0.01))
    export_id = await aged(hasty, 2 * HOUR)
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    task = hasty.tasks.spawn(hasty.retention.run(), "retention")
    sentences = {
        "expired exports could not be removed",
        "files that no client can ask for could not be removed",
        "the rows of exports that are long gone could not be deleted",
    }

    async def failed() -> bool:
        return {record.message for record in caplog.records} >= sentences

    await until(failed, "each of the tasks has failed")
    await pool.execute("ALTER TABLE streamer.away RENAME TO exports")

    async def expired() -> bool:
        return export_id not in hasty.files()

    await until(expired, "the export has expired")
    task.cancel()
    await soon(asyncio.wait({task}))
    await hasty.close()
