"""Leases and the exports of dead servers, with a real table, a real folder and real locks."""

import asyncio
import logging
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from streamer.jobs.recovery import EXHAUSTED, RELEASED, SERVED, STOPPED
from streamer.jobs.store import MAX_ATTEMPTS
from streamer.jobs.times import JobTimes
from streamer.postgres.driver import Pool
from streamer.spool.identity import NAME
from tests.polling import until
from tests.unit.process import SPEC, Process
from tests.unit.spools import let_the_loop_run, soon

PAST = datetime(2024, 5, 1, tzinfo=UTC)


async def dead(process: Process) -> Process:
    """Another process of the same folder, which has died: the file of its lock is there, and the lock is free."""
    other = Process(process.pool, process.directory)
    die(other)
    return other


def die(process: Process) -> None:
    with pytest.raises(ZeroDivisionError), process.directory.alive(process.server_id):
        1 / 0  # noqa: B018


async def test_leases_of_running_exports_are_renewed(process: Process) -> None:
    running = await process.claimed()
    process.source.go_on.clear()
    task = asyncio.create_task(running.run(asyncio.create_task(process.runner.run(running, SPEC))))
    await soon(process.source.reading.wait())
    await process.change(running.id, lease_until=PAST)
    await process.recovery.renew()
    assert (await process.row(running.id))["lease_until"] > PAST
    process.source.go_on.set()
    await soon(task)


async def _until_cancelled() -> timedelta | None:
    await asyncio.Event().wait()
    return None


async def test_an_export_of_a_dead_server_waits_under_its_id_for_any_server(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    other = await dead(process)
    orphan = await other.claimed()
    await process.recovery.recover_orphans()
    row = await process.row(orphan.id)
    assert (row["state"], row["server_id"], row["attempts"], row["epoch"]) == ("pending", None, 1, 1)
    assert process.idle.woken
    assert [record.message for record in caplog.records] == [f"export {orphan.id} is run again: its server died"]
    process.workers.start(1)

    async def completed() -> bool:
        return bool((await process.row(orphan.id))["state"] == "completed")

    await until(completed, "the export is run here")
    await other.close()


async def test_a_dead_server_is_forgotten_once_its_exports_are_settled(process: Process) -> None:
    await dead(process)
    await process.recovery.recover_orphans()
    with process.directory.dead_servers() as found:
        assert found == []


async def test_an_export_of_a_server_that_is_alive_is_left_to_it(process: Process) -> None:
    other = Process(process.pool, process.directory)
    with process.directory.alive(other.server_id):
        held = await other.claimed()
        await process.recovery.recover_orphans()
        assert (await process.row(held.id))["state"] == "processing"
    await other.close()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"served": True}, SERVED), ({"attempts": MAX_ATTEMPTS}, EXHAUSTED)],
    ids=["served", "tried"],
)
async def test_an_export_of_a_dead_server_that_may_not_run_fails_and_its_file_goes(
    process: Process, columns: dict[str, object], reason: str
) -> None:
    other = await dead(process)
    orphan = await other.claimed()
    await process.change(orphan.id, **columns)
    process.directory.file_of(orphan.id).write_bytes(b"id\n")
    await process.recovery.recover_orphans()
    row = await process.row(orphan.id)
    assert (row["state"], row["error"]) == ("failed", reason)
    assert (process.files(), list(process.actives)) == (set(), [])
    await other.close()


async def test_a_run_of_this_process_is_no_orphan(process: Process) -> None:
    active = await process.claimed()
    running = asyncio.create_task(active.run(asyncio.create_task(_until_cancelled())))
    await asyncio.sleep(0)
    await process.change(active.id, lease_until=PAST, served=True)
    await process.recovery.recover_orphans()
    assert (await process.row(active.id))["state"] == "processing"
    active.abort("the test is over")
    await soon(running)


async def test_an_export_of_which_nothing_was_served_is_left_to_the_next_server(process: Process) -> None:
    active = await process.claimed()
    active.meter.percentage = 12.5
    active.spool.kept = True
    await process.recovery.release_or_fail(active)
    row = await process.row(active.id)
    assert (row["state"], row["attempts"], row["percentage"]) == ("pending", 0, 12.5)
    assert not active.spool.kept  # the next run writes another file
    assert active.spool.broken.result() == RELEASED


@pytest.mark.parametrize("known", [True, False], ids=["by_this_process", "by_the_row"])
async def test_an_export_that_was_served_fails_when_its_server_stops(process: Process, known: bool) -> None:
    active = await process.claimed()
    active.meter.percentage = 12.5
    if known:
        await active.ensure_served()
    else:
        await process.change(active.id, served=True)
    await process.recovery.release_or_fail(active)
    row = await process.row(active.id)
    assert (row["state"], row["error"], row["percentage"]) == ("failed", STOPPED, 12.5)
    assert active.spool.broken.result() == STOPPED
    assert active.spool.kept is False


async def test_a_run_whose_row_is_completed_may_seal_its_file(process: Process) -> None:
    active = await process.claimed()
    active.spool.open()
    await active.ensure_served()
    may_seal = asyncio.Event()

    async def seal() -> None:
        await may_seal.wait()
        await active.spool.finish()
        active.spool.seal()

    running = asyncio.create_task(active.run(asyncio.create_task(seal())))
    await process.change(active.id, state="completed")
    stopping = asyncio.create_task(process.recovery.release_or_fail(active))

    async def answered() -> bool:
        return bool(process.pool.get_idle_size() == process.pool.get_size())

    await let_the_loop_run()
    await until(answered, "the row has been read")
    await let_the_loop_run()
    assert not stopping.done()
    may_seal.set()
    await soon(stopping)
    await soon(running)
    assert active.spool.sealed


async def test_a_table_that_is_away_leaves_an_export_to_its_lease(
    process: Process, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    active = await process.claimed()
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    active.spool.kept = True  # the file is whole
    await process.recovery.release_or_fail(active)
    assert "that is done when its lease runs out" in caplog.text
    assert active.spool.broken.result() == RELEASED
    assert active.spool.kept


async def test_all_exports_are_released_at_once(process: Process) -> None:
    queued, claimed = await process.queued(), await process.claimed()
    before = await process.row(queued.id)
    await process.recovery.release_all()
    for active in (queued, claimed):
        assert active.spool.broken.result() == RELEASED
        assert (await process.row(active.id))["state"] == "pending"
    assert await process.row(queued.id) == before  # it belongs to no server


async def test_exports_that_cannot_be_released_are_aborted(process: Process) -> None:
    active = await process.queued()
    process.recovery.abort_all()
    assert active.spool.broken.result() == STOPPED
    assert list(process.actives) == []


async def kept_leases(process: Process) -> ExitStack:
    """Renews the leases until the stack is closed."""
    task = process.tasks.spawn(process.recovery.keep_leases(), "leases")
    stack = ExitStack()
    stack.callback(task.cancel)
    return stack


@pytest.fixture
async def hasty(process: Process) -> Process:
    """Renews its leases every 0.01 s."""
    return Process(process.pool, process.directory, times=JobTimes(renewal=timedelta(seconds=0.01)))


async def test_leases_are_kept_and_orphans_found_after_an_error(
    hasty: Process, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    with await kept_leases(hasty):

        async def failed() -> bool:
            return "the leases could not be renewed" in caplog.text

        await until(failed, "a renewal has failed")
        await pool.execute("ALTER TABLE streamer.away RENAME TO exports")
        other = Process(hasty.pool, hasty.directory)
        orphan = await other.claimed()
        die(other)

        async def found() -> bool:
            return bool((await hasty.row(orphan.id))["state"] == "pending")

        await until(found, "the orphan waits for another run")
        await other.close()
    await hasty.close()


async def test_a_database_that_is_away_is_one_line_in_the_log(
    hasty: Process, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await pool.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege; END $$;"
        "CREATE TRIGGER fail BEFORE UPDATE ON streamer.exports EXECUTE FUNCTION fail()"
    )
    with await kept_leases(hasty):

        async def failed() -> bool:
            return "the leases could not be renewed" in caplog.text

        await until(failed, "a renewal has failed")
    assert {(record.levelno, record.exc_info) for record in caplog.records} == {(logging.WARNING, None)}
    await hasty.close()


async def test_a_stopping_server_takes_over_no_export_and_still_keeps_its_leases(hasty: Process) -> None:
    hasty.actives.stopping = True
    active, orphan = await hasty.claimed(), await (await dead(hasty)).claimed()
    running = asyncio.create_task(active.run(asyncio.create_task(_until_cancelled())))
    await hasty.change(active.id, lease_until=PAST)
    with await kept_leases(hasty):

        async def renewed() -> bool:
            return bool((await hasty.row(active.id))["lease_until"] > PAST)

        await until(renewed, "the lease is renewed")
        await hasty.change(active.id, lease_until=PAST)
        await until(renewed, "the lease is renewed once more")
    assert (await hasty.row(orphan.id))["state"] == "processing"
    active.abort("the test is over")
    await soon(running)
    await hasty.close()


async def test_a_deleted_folder_is_restored_with_the_next_renewal(hasty: Process) -> None:
    identity = hasty.directory.file_of(uuid4()).parent / NAME
    identity.unlink()
    with await kept_leases(hasty):

        async def restored() -> bool:
            return identity.exists()

        await until(restored, "the identity of the folder is there again")
    await hasty.close()


async def test_leases_are_first_renewed_after_the_interval(process: Process) -> None:
    with await kept_leases(process):
        await let_the_loop_run()
        assert process.pool.get_idle_size() == process.pool.get_size()
