"""Start and stop of the jobs of one server: their order, and what a stop waits for."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import asyncpg
import pytest

from streamer.jobs.active import ActiveExport
from streamer.jobs.jobs import Jobs
from streamer.jobs.recovery import RELEASED, STOPPED
from streamer.jobs.times import JobTimes
from streamer.model import OPEN, ExportRequest
from streamer.postgres.driver import Pool
from tests.polling import until
from tests.unit.process import SPEC, Process, until_locked_out
from tests.unit.spools import let_the_loop_run, soon

STOP_TIMEOUT = 0.2  # seconds
TIMES = JobTimes(renewal=timedelta(seconds=0.01), stop_timeout=STOP_TIMEOUT)


@pytest.fixture
async def jobs(process: Process, database: str) -> AsyncIterator[Jobs]:
    """Those of the process, not started; two exports run at once, and one may wait."""
    jobs = Jobs(
        *(process.store, process.queue, process.runner),
        servers=process.servers,
        connect=partial(asyncpg.connect, database),
        directory=process.directory,
        completed=process.completed,
        retention=process.retention,
        representations=process.representations,
        gate=process.gate,
        concurrency=2,
        times=TIMES,
    )
    yield jobs
    await jobs.stop()


async def submitted(jobs: Jobs) -> ActiveExport:
    active = await jobs.admission.submit(ExportRequest(spec=SPEC), OPEN)
    assert isinstance(active, ActiveExport)
    return active


async def running(process: Process, jobs: Jobs) -> ActiveExport:
    """An export that has passed on its row, and waits."""
    process.source.go_on.clear()
    active = await submitted(jobs)
    await soon(process.source.reading.wait())
    return active


async def test_an_export_of_a_dead_server_is_run_after_the_start(process: Process, jobs: Jobs) -> None:
    orphan = await process.claimed()
    await process.change(orphan.id, lease_until=datetime(2024, 5, 1, tzinfo=UTC))
    await jobs.start()

    async def completed() -> bool:
        return bool((await process.row(orphan.id))["state"] == "completed")

    await until(completed, "the export is completed")


async def test_files_without_a_use_are_gone_when_the_start_returns_and_unknown_ones_are_named(
    process: Process, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    await process.completed_export(removed_at=datetime.now(UTC))
    stranger = uuid4()
    process.directory.file_of(stranger).touch()
    await jobs.start()
    assert process.files() == {stranger}
    assert f"{process.directory.file_of(stranger)} is not in the exports table" in caplog.text


async def test_leases_are_kept_after_the_start(process: Process, jobs: Jobs) -> None:
    await jobs.start()
    active = await running(process, jobs)
    long_ago = datetime(2024, 5, 1, tzinfo=UTC)
    await process.change(active.id, lease_until=long_ago)

    async def renewed() -> bool:
        return bool((await process.row(active.id))["lease_until"] > long_ago)

    await until(renewed, "the lease is renewed")


async def test_two_exports_run_at_once_and_one_waits(process: Process, jobs: Jobs) -> None:
    process.source.go_on.clear()
    await jobs.start()
    for count in (1, 2):
        await submitted(jobs)

        async def opened(count: int = count) -> bool:
            return process.source.opened == count

        await until(opened, "the export runs")
    waiting = await submitted(jobs)
    assert waiting.waiting


async def test_drain_returns_when_the_runs_have_ended_and_begins_no_other(process: Process, jobs: Jobs) -> None:
    await jobs.start()
    active = await running(process, jobs)
    draining = asyncio.create_task(jobs.drain())
    await let_the_loop_run()
    assert not draining.done()
    process.source.go_on.set()
    await soon(draining)
    assert active.spool.sealed


async def test_stop_releases_the_exports_of_which_nothing_was_served(process: Process, jobs: Jobs) -> None:
    await jobs.start()
    active = await running(process, jobs)
    await soon(jobs.stop())
    assert active.spool.broken.result() == RELEASED
    row = await process.row(active.id)
    assert (row["state"], row["attempts"]) == ("pending", 0)


async def test_no_worker_is_left_after_a_stop(process: Process, jobs: Jobs) -> None:
    await jobs.start()
    await soon(jobs.stop())
    jobs.workers._idle.wake()
    await let_the_loop_run()
    assert jobs.workers._idle.woken


async def test_stop_does_not_wait_for_a_database_that_does_not_answer(process: Process, jobs: Jobs, pool: Pool) -> None:
    await jobs.start()
    active = await running(process, jobs)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports")
        stopping = asyncio.create_task(jobs.stop())
        await until_locked_out(pool)
        await soon(stopping)
        assert active.spool.broken.result() == STOPPED
