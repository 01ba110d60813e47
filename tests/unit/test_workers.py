"""Workers, with a real table: what they claim, and what they do with a run that has ended."""

import asyncio
from datetime import timedelta
from itertools import groupby
from typing import Any

import pytest

from streamer.errors import SourceBusy, TransientFailure
from streamer.jobs.active import ActiveExport
from streamer.jobs.table import Table
from streamer.jobs.times import JobTimes
from streamer.jobs.workers import UNREADABLE
from streamer.model import EVERYBODY, OPEN, ExportRequest, Principal
from streamer.postgres.driver import Connection, Pool
from streamer.spool.names import SpoolName
from tests.polling import until
from tests.unit.process import HEADER, SPEC, Process, until_locked_out
from tests.unit.spools import let_the_loop_run, soon


async def ended(process: Process, active: ActiveExport) -> None:
    async def gone() -> bool:
        return active.id not in process.actives

    await until(gone, "the worker is done with the export")


async def test_a_wake_up_lets_all_exports_run_the_oldest_first(process: Process) -> None:
    first, second = await process.queued(), await process.queued()
    process.workers.start(1)
    process.idle.wake()
    for active in (first, second):
        await ended(process, active)
        assert active.spool.sealed
    started = [(await process.row(active.id))["started_at"] for active in (first, second)]
    assert started == sorted(started)


async def test_nothing_runs_without_a_wake_up(process: Process) -> None:
    active = await process.queued()
    process.workers.start(2)
    await let_the_loop_run()
    assert process.pool.get_idle_size() == process.pool.get_size()  # no claim is under way
    assert active.waiting


async def test_as_many_exports_run_at_once_as_there_are_workers(process: Process) -> None:
    for _ in range(3):
        await process.queued()
        process.idle.wake()
    process.source.go_on.clear()
    assert [task.get_name() for task in process.workers.start(2)] == ["worker 0", "worker 1"]

    async def two_run() -> bool:
        return process.source.opened == 2

    await until(two_run, "two exports run")
    await let_the_loop_run()
    assert (len(process.actives.running), len(process.actives.waiting)) == (2, 1)
    process.source.go_on.set()

    async def none_left() -> bool:
        return not list(process.actives)

    await until(none_left, "all exports have ended")


async def test_a_cancelled_export_is_not_claimed(process: Process) -> None:
    cancelled, next_one = await process.queued(), await process.queued()
    await process.store.cancel(cancelled.id, EVERYBODY, 0.0)
    process.actives.pop(cancelled.id)
    process.workers.start(1)
    process.idle.wake()
    process.idle.wake()
    await ended(process, next_one)
    assert process.source.opened == 1


async def test_an_export_that_ended_while_it_was_claimed_is_not_run(process: Process, pool: Pool) -> None:
    active = await process.queued()
    process.workers.start(1)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM streamer.exports FOR UPDATE")
        process.idle.wake()
        await until_locked_out(pool)
        active.spool.fail("the export was cancelled")

    async def claimed() -> bool:
        return bool((await process.row(active.id))["state"] == "processing")

    await until(claimed, "the row is claimed")
    await let_the_loop_run()
    assert process.source.opened == 0


async def test_a_sealed_file_is_not_hashed_again_by_this_process(process: Process) -> None:
    active = await process.queued()
    process.workers.start(1)
    process.idle.wake()
    await ended(process, active)
    assert process.completed._verified == {SpoolName(active.id): process.directory.stamp(active.id)}


async def test_the_file_of_a_failed_export_is_not_trusted(process: Process) -> None:
    active = await process.queued()
    process.source.claimed = 2
    process.workers.start(1)
    process.idle.wake()
    await ended(process, active)
    assert process.completed._verified == {}


async def test_an_export_that_failed_for_a_moment_runs_again_and_counts_its_attempts(process: Process) -> None:
    active = await process.queued()
    process.source.after.append(TransientFailure("the connection was lost"))
    process.workers.start(1)
    process.idle.wake()
    await ended(process, active)
    assert (process.source.opened, active.attempts, active.spool.sealed) == (2, 2, True)
    assert process.directory.file_of(active.id).read_bytes() == HEADER + b"1\n"


async def test_a_run_that_is_delayed_does_not_keep_its_worker(process: Process) -> None:
    slow = Process(process.pool, process.directory, times=JobTimes(retry_delay=timedelta(hours=1)))
    delayed, other = await slow.queued(), await slow.queued()
    slow.source.after.append(TransientFailure("the connection was lost"))
    slow.workers.start(1)
    for _ in range(2):
        slow.idle.wake()
    await ended(slow, other)
    assert slow.actives.waiting == [delayed.id]
    await slow.close()


async def test_an_export_that_waited_for_the_source_is_claimed_after_its_delay(process: Process) -> None:
    active = await process.queued()
    process.source.before.append(SourceBusy("a relation is locked"))
    process.workers.start(1)
    process.idle.wake()
    await ended(process, active)
    assert (process.source.opened, active.attempts) == (2, 1)


async def test_a_request_that_became_unreadable_is_left_in_the_queue_and_others_run(process: Process) -> None:
    damaged, other = await process.queued(), await process.queued()
    await process.change(damaged.id, spec="{}")
    before = await process.row(damaged.id)
    process.workers.start(1)
    process.idle.wake()
    await ended(process, other)
    assert damaged.spool.broken.result() == UNREADABLE
    assert damaged.id not in process.actives
    assert await process.row(damaged.id) == before


async def test_a_claim_is_repeated_until_the_table_answers(
    process: Process, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    active = await process.queued()
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    process.workers.start(1)
    process.idle.wake()

    async def retried() -> bool:
        return "streamer.jobs.workers" in {record.name for record in caplog.records}

    await until(retried, "the claim has failed")
    await pool.execute("ALTER TABLE streamer.away RENAME TO exports")
    await ended(process, active)
    assert active.spool.sealed


async def test_workers_begin_no_export_while_the_server_stops(process: Process) -> None:
    active = await process.queued()
    process.source.go_on.clear()
    workers = process.workers.start(1)
    for _ in range(2):
        process.idle.wake()
    await soon(process.source.reading.wait())
    waiting = await process.queued()
    process.actives.stopping = True
    process.source.go_on.set()
    await ended(process, active)
    await soon(asyncio.wait(workers))
    assert process.actives.waiting == [waiting.id]


async def test_one_export_at_a_time_tries_a_source_that_is_away(process: Process) -> None:
    for _ in range(3):
        await process.queued()
        process.idle.wake()
    process.source.go_on.clear()
    process.gate.went_away("no connection")
    process.workers.start(3)
    await soon(process.source.reading.wait())

    async def all_run() -> bool:
        return process.source.opened == 3

    await until(all_run, "the first answer opens the gate")
    process.source.go_on.set()


async def test_an_export_that_another_process_has_accepted_is_run_here(process: Process) -> None:
    neighbour = Process(process.pool, process.directory)
    theirs = await neighbour.queued()
    process.workers.start(1)
    process.idle.wake()

    async def completed() -> bool:
        return bool((await process.row(theirs.id))["state"] == "completed")

    await until(completed, "the export is run here")
    assert process.source.opened == 1
    assert process.files() == {theirs.id}
    await neighbour.close()


async def test_a_worker_that_becomes_free_runs_the_next_export_without_a_wake_up(process: Process) -> None:
    process.source.go_on.clear()
    process.workers.start(1)
    await let_the_loop_run()
    first = await process.admission.submit(ExportRequest(spec=SPEC), OPEN)
    assert isinstance(first, ActiveExport)
    await soon(process.source.reading.wait())
    second = await process.queued()
    process.source.go_on.set()
    await ended(process, second)
    assert second.spool.sealed


async def test_one_wake_up_is_enough_for_several_workers(process: Process) -> None:
    for _ in range(3):
        await process.queued()
    process.source.go_on.clear()
    process.workers.start(3)
    await let_the_loop_run()
    process.idle.wake()

    async def all_run() -> bool:
        return process.source.opened == 3

    await until(all_run, "three exports run")
    process.source.go_on.set()


async def test_a_hundred_exports_of_one_principal_do_not_keep_another_waiting(process: Process) -> None:
    alice, bob = Principal(name="key:alice"), Principal(name="key:bob")
    for _ in range(100):
        await process.queued(alice)
    process.source.go_on.clear()
    process.workers.start(1)
    process.idle.wake()
    await soon(process.source.reading.wait())
    small = await process.queued(bob)
    process.source.reading.clear()
    process.source.go_on.set()
    await ended(process, small)
    process.actives.stopping = True
    started = (await process.row(small.id))["started_at"]
    assert await process.pool.fetchval("SELECT count(*) FROM streamer.exports WHERE started_at < $1", started) == 1


@pytest.mark.parametrize(
    ("idle", "statements"),
    [
        (True, ["begin", "complete", "claimable"]),
        (False, ["full", "insert", "claimable", "next", "claim", "complete", "claimable"]),
    ],
    ids=["begins at once", "waits"],
)
async def test_an_export_costs_a_few_statements(
    process: Process, monkeypatch: pytest.MonkeyPatch, idle: bool, statements: list[str]
) -> None:
    """Beside its progress; inserts and claims also take the lock of the queue, and commit."""
    executed: list[str] = []
    fetch = Table._fetch

    async def fetching(self: Table, connection: Connection, statement: str, *arguments: object) -> Any:
        executed.append(statement)
        return await fetch(self, connection, statement, *arguments)

    monkeypatch.setattr(Table, "_fetch", fetching)
    if idle:
        process.workers.start(1)
        await let_the_loop_run()
    active = await process.admission.submit(ExportRequest(spec=SPEC), OPEN)
    assert isinstance(active, ActiveExport)
    if not idle:
        process.workers.start(1)
    await ended(process, active)

    async def looked() -> bool:
        return executed[-1] == "claimable"

    await until(looked, "the worker has looked for the next export")
    named = [name for name in executed if name != "note_progress"]
    assert [name for name, _ in groupby(named)] == statements  # it may look once more
