"""One run of an export, with a real table and a real folder: what is written when, and what a failure leaves."""

import asyncio
import hashlib
import logging
from datetime import timedelta
from typing import Any

import pytest

from streamer.errors import ExportFailure, SourceAway, SourceBusy, TransientFailure, Unavailable
from streamer.jobs.active import ENDED_ELSEWHERE, ActiveExport
from streamer.jobs.runner import FIRST_SOURCE_PAUSE, MAX_SOURCE_PAUSE, _pause
from streamer.jobs.store import MAX_ATTEMPTS
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY
from streamer.postgres.driver import Pool
from tests.polling import until
from tests.unit.process import HEADER, SPEC, Process, until_locked_out
from tests.unit.spools import soon

CONTENT = HEADER + b"1\n"
SECOND = timedelta(seconds=1)


async def run(process: Process, active: ActiveExport) -> timedelta | None:
    return await soon(process.runner.run(active, SPEC))


async def begun(process: Process, active: ActiveExport) -> "asyncio.Task[timedelta | None]":
    """Starts a run that stops after its row."""
    process.source.go_on.clear()
    task = asyncio.create_task(process.runner.run(active, SPEC))
    await soon(process.source.reading.wait())
    return task


async def failed(process: Process, active: ActiveExport) -> str:
    """The reason in the row. The followers have the same, and there is no file."""
    row = await process.row(active.id)
    assert row["state"] == "failed"
    assert active.spool.broken.result() == row["error"]
    assert process.files() == set()
    return str(row["error"])


async def test_a_run_ends_with_a_file_a_row_and_a_sealed_spool(process: Process) -> None:
    active = await process.claimed()
    assert await run(process, active) is None
    row = await process.row(active.id)
    assert (row["state"], row["processed_rows"], row["bytes"], row["truncated"]) == ("completed", 1, 5, False)
    assert row["sha256"] == hashlib.sha256(CONTENT).digest()
    assert row["snapshot_at"] == active.snapshot_at
    assert process.directory.file_of(active.id).read_bytes() == CONTENT
    assert active.spool.sealed


async def test_the_row_is_written_before_the_followers_see_the_end(process: Process, pool: Pool) -> None:
    active = await process.claimed()
    async with pool.acquire() as connection, connection.transaction():
        running = await begun(process, active)
        await reported(process, active)
        await connection.execute("SELECT FROM streamer.exports WHERE id = $1 FOR UPDATE", active.id)
        process.source.go_on.set()
        await until_locked_out(pool)
        assert (active.spool.frontier, active.spool.ended) == (len(CONTENT), False)
    await soon(running)
    assert active.spool.sealed


async def reported(process: Process, active: ActiveExport) -> None:
    async def noted() -> bool:
        row = await process.row(active.id)
        return bool(row["processed_rows"] == 1)

    await until(noted, "the progress of the row is in the table")


async def test_progress_is_reported_while_rows_are_read(process: Process) -> None:
    active = await process.claimed()
    running = await begun(process, active)
    await reported(process, active)
    row = await process.row(active.id)
    assert (row["total_rows"], row["bytes"], row["percentage"]) == (4, 5, 25.0)
    assert row["snapshot_at"] == active.snapshot_at
    process.source.go_on.set()
    await soon(running)


async def test_a_report_goes_on_after_the_table_was_away(
    process: Process, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    active = await process.claimed()
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    running = await begun(process, active)

    async def failed() -> bool:
        return "its progress could not be recorded" in caplog.text

    await until(failed, "a report has failed")
    await pool.execute("ALTER TABLE streamer.away RENAME TO exports")
    await reported(process, active)
    process.source.go_on.set()
    await soon(running)
    assert active.spool.sealed


async def test_a_run_is_stopped_by_its_report_when_the_row_has_ended(process: Process) -> None:
    active = await process.claimed()
    process.source.go_on.clear()
    task = asyncio.create_task(process.runner.run(active, SPEC))
    running = asyncio.create_task(active.run(task))
    await soon(process.source.reading.wait())
    await process.store.cancel(active.id, EVERYBODY, 0.0)
    await soon(running)
    assert task.cancelled()
    assert active.spool.broken.result() == ENDED_ELSEWHERE
    assert process.files() == set()


async def test_a_run_that_finds_a_change_of_this_process_first_breaks_its_followers_with_the_reason_of_that_change(
    process: Process,
) -> None:
    active = await process.claimed()
    process.source.go_on.clear()
    running = asyncio.create_task(active.run(asyncio.create_task(process.runner.run(active, SPEC))))
    await soon(process.source.reading.wait())
    with active.ending("the reason"):
        await process.store.cancel(active.id, EVERYBODY, 0.0)
        await soon(running)  # the answer of the statement is still on its way
    assert active.spool.broken.result() == "the reason"


async def test_a_run_that_completes_beside_a_change_of_this_process_fails_with_the_reason_of_that_change(
    process: Process,
) -> None:
    active = await process.claimed()
    with active.ending("the reason"):
        await process.store.cancel(active.id, EVERYBODY, 0.0)
        await run(process, active)
    assert active.spool.broken.result() == "the reason"


async def test_an_export_that_was_cancelled_at_its_last_row_fails(process: Process) -> None:
    active = await process.claimed()
    await process.store.cancel(active.id, EVERYBODY, 0.0)
    assert await run(process, active) is None
    assert active.spool.broken.result() == ENDED_ELSEWHERE
    assert process.files() == set()


async def test_rows_that_are_missing_in_the_file_fail_the_export(process: Process) -> None:
    active = await process.claimed()
    process.source.claimed = 2
    assert await run(process, active) is None
    assert await failed(process, active) == "1 records were written for 2 rows"


async def test_a_failure_of_the_source_is_the_reason_in_the_row(process: Process) -> None:
    active = await process.claimed()
    process.source.after.append(ExportFailure("permission denied"))
    assert await run(process, active) is None
    assert await failed(process, active) == "permission denied"


async def test_a_bug_is_logged_with_its_traceback_and_not_shown_to_the_client(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    active = await process.claimed()
    process.source.after.append(RuntimeError("a bug"))
    assert await run(process, active) is None
    assert await failed(process, active) == "an internal error, which the server's log describes"
    assert any(record.exc_info and "a bug" in str(record.exc_info[1]) for record in caplog.records)


async def test_a_temporary_failure_returns_the_export_to_the_queue_with_an_empty_spool(process: Process) -> None:
    active = await process.claimed()
    process.source.after.append(TransientFailure("the connection was lost"))
    assert await run(process, active) == timedelta(0)
    row = await process.row(active.id)
    assert (row["state"], row["attempts"], row["bytes"]) == ("pending", 1, 0)
    assert (active.spool.frontier, active.spool.ended, active.waiting, active.snapshot_at) == (0, False, True, None)
    assert process.files() == set()


@pytest.mark.parametrize("attempts", [1, 2])
async def test_the_delay_before_another_run_doubles(process: Process, attempts: int) -> None:
    slow = Process(process.pool, process.directory, times=JobTimes(retry_delay=SECOND))
    active = await slow.claimed()
    active.attempts = attempts
    slow.source.after.append(TransientFailure("the connection was lost"))
    assert await run(slow, active) == attempts * SECOND
    await slow.close()


async def test_the_last_attempt_fails(process: Process) -> None:
    active = await process.claimed()
    await process.change(active.id, attempts=MAX_ATTEMPTS)
    process.source.after.append(TransientFailure("the connection was lost"))
    assert await run(process, active) is None
    assert await failed(process, active) == "the connection was lost"


@pytest.mark.parametrize("failure", [TransientFailure("lost"), SourceBusy("locked")], ids=["transient", "busy"])
async def test_an_export_that_was_served_is_not_run_again(process: Process, failure: ExportFailure) -> None:
    active = await process.claimed()
    await active.ensure_served()
    process.source.after.append(failure)
    assert await run(process, active) is None
    assert await failed(process, active) == str(failure)


async def test_a_busy_source_is_waited_for_without_an_attempt_counted(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    active = await process.claimed()
    with caplog.at_level(logging.INFO, "streamer.jobs.runner"):
        for runs in (1, 2):
            process.source.before.append(SourceBusy("a relation is locked"))
            delay = await run(process, active)
            assert delay is not None
            assert timedelta(0) < delay <= timedelta(seconds=FIRST_SOURCE_PAUSE * runs)
            assert (active.snapshot_wait.runs, active.waiting, active.waiting_for) == (runs, True, "source")
            row = await process.row(active.id)
            assert (row["state"], row["attempts"], row["waiting_for"]) == ("pending", 0, "source")
            await process.change(active.id, not_before=None)
            await process.claim(active)
    assert not process.gate.away
    assert [record.message for record in caplog.records] == [
        f"export {active.id} waits for the source: a relation is locked"
    ]
    assert await run(process, active) is None
    assert active.spool.sealed


async def test_a_source_that_is_away_closes_the_gate_and_an_answer_opens_it(process: Process) -> None:
    active = await process.claimed()
    process.source.before.append(SourceAway("no connection"))
    assert await run(process, active) == timedelta(0)
    assert process.gate.away
    await process.change(active.id, not_before=None)
    await process.claim(active)
    process.source.before.append(SourceBusy("a relation is locked"))
    await run(process, active)
    assert not process.gate.away
    process.gate.went_away("no connection")
    await process.change(active.id, not_before=None, state="processing")
    await run(process, active)
    assert not process.gate.away


async def test_an_export_waits_for_the_source_only_so_long(process: Process) -> None:
    impatient = Process(process.pool, process.directory, source_wait=0.0)
    active = await impatient.claimed()
    cause = OSError("connection refused")
    failure = SourceAway("no connection")
    failure.__cause__ = cause
    impatient.source.before.append(failure)
    assert await run(impatient, active) is None
    assert await failed(impatient, active) == "no snapshot could be taken for 0 s: no connection"
    await impatient.close()


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) - 1])
async def test_a_file_may_be_as_large_as_the_limit(process: Process, size: int) -> None:
    limited = Process(process.pool, process.directory, max_bytes=size)
    active = await limited.claimed()
    assert await run(limited, active) is None
    if size == len(CONTENT):
        assert active.spool.sealed
    else:
        assert await failed(limited, active) == f"the file would be larger than EXPORT_MAX_BYTES allows, {size} bytes"
    await limited.close()


async def test_a_run_that_had_a_snapshot_ends_the_pause_of_the_gate(process: Process) -> None:
    """A connection is free."""
    active = await process.claimed()
    assert not process.gate._skip_pause.is_set()
    process.source.before.append(ExportFailure("not offered any more"))
    await run(process, active)
    assert not process.gate._skip_pause.is_set()
    await run(process, await process.claimed())
    assert process.gate._skip_pause.is_set()


class LostAnswers:
    """Breaks the connection after a statement was executed, for the next `times` of it."""

    def __init__(self, process: Process, statement: str, times: int = 1) -> None:
        self.times, self.calls = times, 0
        self._call = getattr(process.store, statement)
        setattr(process.store, statement, self.call)

    async def call(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        result = await self._call(*arguments, **named)
        if self.calls <= self.times:
            raise Unavailable("the database does not answer")
        return result


async def test_a_completion_whose_answer_was_lost_is_read_from_the_row(process: Process) -> None:
    lost = LostAnswers(process, "complete")
    active = await process.claimed()
    assert await run(process, active) is None
    assert lost.calls == 2
    assert active.spool.sealed
    assert process.files() == {active.id}


async def test_a_requeue_whose_answer_was_lost_is_read_from_the_row(process: Process) -> None:
    LostAnswers(process, "requeue")
    active = await process.claimed()
    process.source.after.append(TransientFailure("the connection was lost"))
    assert await run(process, active) == timedelta(0)


async def test_a_failure_that_the_table_does_not_take_leaves_the_row_to_its_lease(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    short = Process(process.pool, process.directory, times=JobTimes(lease=timedelta(seconds=0.1)))
    LostAnswers(short, "fail", times=1000)
    active = await short.claimed()
    short.source.after.append(ExportFailure("permission denied"))
    assert await run(short, active) is None
    assert active.spool.broken.result() == "permission denied"
    assert "that is done when its lease runs out" in caplog.text
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Unavailable]
    await short.close()


async def test_a_whole_export_waits_for_a_table_that_is_unavailable_beyond_its_lease(process: Process) -> None:
    short = Process(process.pool, process.directory, times=JobTimes(lease=timedelta(0)))
    LostAnswers(short, "complete", times=2)
    active = await short.claimed()
    assert await run(short, active) is None
    assert active.spool.sealed
    await short.close()


async def test_a_whole_file_stays_when_its_run_ends_without_an_answer(process: Process) -> None:
    """The row decides about it later."""
    LostAnswers(process, "complete", times=1000)
    active = await process.claimed()
    task = asyncio.create_task(process.runner.run(active, SPEC))

    async def completed() -> bool:
        return bool((await process.row(active.id))["state"] == "completed")

    await until(completed, "the row is completed")
    task.cancel()
    await asyncio.wait({task})
    assert active.spool.broken.result() == "the export was stopped"
    assert process.files() == {active.id}


async def test_a_cancelled_run_leaves_no_file(process: Process) -> None:
    active = await process.claimed()
    task = await begun(process, active)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert active.spool.broken.result() == "the export was stopped"
    assert process.files() == set()


async def test_a_file_that_cannot_be_created_fails_the_export(process: Process) -> None:
    active = await process.claimed()
    process.directory.file_of(active.id).mkdir()
    assert await run(process, active) is None
    assert "could not be written" in (await process.row(active.id))["error"]


def test_the_longest_pause_is_bounded() -> None:
    assert all(0 <= _pause(waits) <= MAX_SOURCE_PAUSE for waits in (0, 5, 1000))
