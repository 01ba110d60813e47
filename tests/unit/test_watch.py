"""The look at what other servers have done to the queue, with a real table."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from streamer.errors import Unavailable
from streamer.jobs.active import ENDED_ELSEWHERE, RUN_ELSEWHERE
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY
from streamer.postgres.driver import Pool
from tests.polling import until
from tests.unit.process import Process, until_locked_out
from tests.unit.spools import let_the_loop_run, soon


async def idle(process: Process) -> "asyncio.Task[object]":
    """A worker that waits for a wake-up."""
    task = asyncio.create_task(process.idle.next())
    await asyncio.sleep(0)
    return task


async def test_an_export_of_another_server_wakes_an_idle_worker(process: Process) -> None:
    neighbour = Process(process.pool, process.directory)
    worker = await idle(process)
    await process.watch.look()
    await let_the_loop_run()
    assert not worker.done()
    await neighbour.queued()
    await process.watch.look()
    assert await soon(worker) is None
    await neighbour.close()


@pytest.mark.parametrize("why", ["busy", "stopping"])
async def test_no_worker_is_woken_that_could_not_begin(process: Process, why: str) -> None:
    if why == "stopping":
        await idle(process)
        process.actives.stopping = True
    await process.queued()
    await process.watch.look()
    assert not process.idle.woken


async def test_a_waiting_export_that_another_server_has_ended_is_dropped(process: Process) -> None:
    lost, kept = await process.queued(), await process.queued()
    await process.store.cancel(lost.id, EVERYBODY, 0.0)
    await process.watch.look()
    assert list(process.actives) == [kept]
    assert lost.spool.broken.result() == ENDED_ELSEWHERE
    assert not kept.spool.ended


async def test_a_waiting_export_that_another_server_runs_is_dropped(process: Process) -> None:
    neighbour = Process(process.pool, process.directory)
    taken, kept = await process.queued(), await process.queued()
    assert (export := (await neighbour.queue.claim()).export) is not None
    assert export.id == taken.id
    await process.watch.look()
    assert list(process.actives) == [kept]
    assert taken.spool.broken.result() == RUN_ELSEWHERE
    await neighbour.close()


async def test_a_run_is_not_dropped_although_its_row_was_lost(process: Process, pool: Pool) -> None:
    """It began after the list of waiting exports was made, and notices with its next report."""
    active = await process.queued()
    await process.store.cancel(active.id, EVERYBODY, 0.0)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports")
        looking = asyncio.create_task(process.watch.look())
        await until_locked_out(pool)
        active.begin_run(epoch=1, attempts=1)
    await soon(looking)
    assert active.id in process.actives
    assert not active.spool.ended


async def test_a_claim_of_this_server_whose_answer_is_on_its_way_is_not_lost(process: Process) -> None:
    active = await process.queued()
    await process.queue.claim()
    await process.watch.look()
    assert active.id in process.actives


async def test_looks_go_on_after_an_error(process: Process, pool: Pool) -> None:
    hasty = Process(process.pool, process.directory, times=JobTimes(poll_interval=0.01, renewal=timedelta(hours=1)))
    active = await hasty.queued()
    task = hasty.tasks.spawn(hasty.watch.run(), "watch")
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    await asyncio.sleep(0.05)
    await pool.execute("ALTER TABLE streamer.away RENAME TO exports")
    await hasty.store.cancel(active.id, EVERYBODY, 0.0)

    async def dropped() -> bool:
        return active.id not in hasty.actives

    await until(dropped, "the export is dropped")
    task.cancel()
    await hasty.close()


async def test_a_table_that_is_away_is_unavailable(process: Process, pool: Pool) -> None:
    await process.queued()
    await pool.close()
    with pytest.raises(Unavailable):
        await process.watch.look()


async def test_an_announced_export_wakes_an_idle_worker_at_once(process: Process) -> None:
    worker = await idle(process)
    process.watch.hear(f"{uuid4()} pending")
    assert await soon(worker) is None
    process.watch.hear(f"{uuid4()} pending")
    assert not process.idle.woken  # all are busy, and claim when they are not


@pytest.mark.parametrize("limited", [True, False])
async def test_an_end_elsewhere_wakes_a_worker_where_a_limit_of_all_servers_may_allow_one_more(
    process: Process, limited: bool
) -> None:
    one = Process(process.pool, process.directory, source_exports=1 if limited else None)
    worker = await idle(one)
    one.watch.hear(f"{uuid4()} completed")
    await let_the_loop_run()
    assert worker.done() is limited
    worker.cancel()
    await one.close()


async def test_an_announced_claim_of_another_server_breaks_the_followers_at_once(process: Process) -> None:
    neighbour = Process(process.pool, process.directory)
    patient = Process(process.pool, process.directory, times=JobTimes(poll_interval=3600.0))
    taken = await patient.queued()
    task = patient.tasks.spawn(patient.watch.run(), "watch")
    await neighbour.queue.claim()
    patient.watch.hear(f"{taken.id} processing")
    await soon(taken.spool.end())
    assert taken.spool.broken.result() == RUN_ELSEWHERE
    task.cancel()
    for each in (neighbour, patient):
        await each.close()


@pytest.mark.parametrize("text", ["", "nonsense", "probe 1", f"{UUID(int=7)} archived"])
async def test_what_is_not_known_changes_nothing(process: Process, text: str) -> None:
    await idle(process)
    process.watch.hear(text)
    assert process.idle.any
