"""An unfinished export: its run, its end, and the note that a byte is served."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from streamer.errors import ExportFailure, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.model import OPEN
from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.unit.clock import Clock

SNAPSHOT_AT = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
MINUTE = 60.0
PATIENCE = 10.0  # seconds until a test that waits has failed


async def note_served() -> bool:
    raise AssertionError("no byte was to be served")


@pytest.fixture
async def active(tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[ActiveExport]:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor))
    spool.open()
    yield ActiveExport(UUID(int=1), OPEN.name, spool, note_served=note_served)
    spool.fail("the test is over")
    await spool.discard()


async def publish(active: ActiveExport, rows: int, page: bytes = b"") -> None:
    """Returns when the page can be read. Without `page`, each row has two bytes."""
    page = page or b"1\n" * rows
    wanted = active.spool.frontier + len(page)
    await active.spool.append(page, rows)
    async with asyncio.timeout(PATIENCE):
        await active.spool.moved_beyond(wanted - 1)
    assert active.spool.frontier == wanted


async def test_stopped_export_is_not_cancelled_again(active: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    active.abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    await active.stop("the export was cancelled")
    await clock.advance(100 * MINUTE)
    assert cancelled == []


class Work:
    """A run that goes on until it is cancelled, and then cleans up until it may end."""

    def __init__(self) -> None:
        self.started, self.tidying, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.tidy = False

    async def run(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.tidying.set()
            await self.may_end.wait()
            self.tidy = True


async def test_stop_breaks_followers_and_waits_for_the_run_to_end(active: ActiveExport) -> None:
    work = Work()
    task = asyncio.create_task(work.run())
    running = asyncio.create_task(active.run(task))
    await work.started.wait()
    assert not active.waiting
    assert not running.done()
    stopping = asyncio.create_task(active.stop("the export was cancelled"))
    await work.tidying.wait()
    assert not stopping.done()
    with Follower(active.spool) as follower, pytest.raises(TruncatedError, match="the export was cancelled"):
        await anext(follower)
    work.may_end.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(stopping, running)
    assert task.cancelled()


async def test_stop_does_not_cancel_a_run_a_second_time(active: ActiveExport) -> None:
    work = Work()
    running = asyncio.create_task(active.run(asyncio.create_task(work.run())))
    await work.started.wait()
    active.abort("its report found it cancelled")
    await work.tidying.wait()
    stopping = asyncio.create_task(active.stop("the export was cancelled"))
    for _ in range(5):
        await asyncio.sleep(0)
    work.may_end.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(stopping, running)
    assert work.tidy


async def test_stop_of_a_queued_export_returns_at_once(active: ActiveExport) -> None:
    async with asyncio.timeout(PATIENCE):
        await active.stop("the server was stopped")
        await active.finished()
    assert active.waiting
    assert active.spool.broken.result() == "the server was stopped"


async def test_run_that_fails_has_finished(active: ActiveExport) -> None:
    async def work() -> None:
        raise RuntimeError("a bug")

    task = asyncio.create_task(work())
    async with asyncio.timeout(PATIENCE):
        await active.run(task)
        await active.finished()
    assert isinstance(task.exception(), RuntimeError)


class Table:
    """Answers each note that a byte is served with the next of `answers`; an exception is raised."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def note(self) -> bool:
        self.asked += 1
        await self.open.wait()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)


def noting(table: Table, spool: Spool) -> ActiveExport:
    return ActiveExport(UUID(int=1), OPEN.name, spool, note_served=table.note)


async def test_served_is_noted_once_and_every_follower_waits_for_the_answer(active: ActiveExport) -> None:
    table = Table(True)
    export = noting(table, active.spool)
    assert not export.served
    table.open.clear()
    crowd = [asyncio.create_task(export.ensure_served()) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(one.done() for one in crowd)
    assert export.served
    table.open.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*crowd)
        await export.ensure_served()
    assert table.asked == 1


async def test_follower_that_leaves_while_served_is_noted_does_not_cancel_the_note(active: ActiveExport) -> None:
    table = Table(True)
    export = noting(table, active.spool)
    table.open.clear()
    leaving, staying = [asyncio.create_task(export.ensure_served()) for _ in range(2)]
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    table.open.set()
    async with asyncio.timeout(PATIENCE):
        await staying
    assert (table.asked, export.served) == (1, True)


@pytest.mark.parametrize("refusal", [None, Unavailable("no answer")], ids=["not_ours", "no_answer"])
async def test_next_follower_notes_served_again_after_a_refusal(
    active: ActiveExport, refusal: Exception | None
) -> None:
    table = Table(refusal, True)
    export = noting(table, active.spool)
    for one in await asyncio.gather(export.ensure_served(), export.ensure_served(), return_exceptions=True):
        assert isinstance(one, Unavailable)
        assert one.retry_after
    assert (table.asked, export.served) == (1, False)
    await export.ensure_served()
    assert (table.asked, export.served) == (2, True)


async def test_second_run_with_another_prologue_fails(active: ActiveExport) -> None:
    """The prologue of the first run may have been sent."""
    for _ in range(2):
        active.begin(SNAPSHOT_AT, b"id\n", int)
        assert await active.early() == b"id\n"
        active.reset()
    with pytest.raises(ExportFailure, match="has changed"):
        active.begin(SNAPSHOT_AT, b"id,name\n", int)


async def test_there_is_no_early_header_after_the_first_row_or_the_end(active: ActiveExport) -> None:
    active.begin(SNAPSHOT_AT, b"id\n", int)
    await publish(active, 1)
    assert await active.early() == b""
    active.spool.fail("cancelled")
    assert await active.early() == b""


async def test_export_waits_for_a_place_then_for_a_snapshot_and_then_for_nothing(active: ActiveExport) -> None:
    assert active.waiting_for == "place"
    work = Work()
    running = asyncio.create_task(active.run(asyncio.create_task(work.run())))
    await work.started.wait()
    assert active.waiting_for is None
    active.begin(SNAPSHOT_AT, b"", int)
    assert active.waiting_for is None
    assert (active.snapshot_at, active.attempts) == (SNAPSHOT_AT, 0)
    work.may_end.set()
    await active.stop("the export was cancelled")
    await running


async def test_export_without_a_snapshot_waits_for_the_source_until_there_is_one(active: ActiveExport) -> None:
    active.wait_for_source()
    assert active.waiting_for == "source"
    active.begin(SNAPSHOT_AT, b"", int)
    assert active.waiting_for is None
    assert active.snapshot_wait.runs == 0


async def test_export_that_is_reset_waits_for_another_run(active: ActiveExport) -> None:
    work = Work()
    work.may_end.set()
    running = asyncio.create_task(active.run(asyncio.create_task(work.run())))
    await work.started.wait()
    active.begin(SNAPSHOT_AT, b"", int)
    active.abort("the run is over")
    await running
    active.reset()
    assert (active.waiting, active.snapshot_at, active.waiting_for) == (True, None, "place")


async def test_early_header_waits_for_the_query(active: ActiveExport) -> None:
    early = asyncio.create_task(active.early())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not early.done()
    active.begin(SNAPSHOT_AT, b"id\n", int)
    async with asyncio.timeout(PATIENCE):
        assert await early == b"id\n"


async def test_early_header_of_an_export_that_ends_in_the_queue_is_empty(active: ActiveExport) -> None:
    early = asyncio.create_task(active.early())
    await asyncio.sleep(0)
    active.spool.fail("the export was cancelled")
    async with asyncio.timeout(PATIENCE):
        assert await early == b""


@pytest.mark.parametrize("ended", [True, False])
async def test_whole_file_stays_only_if_its_row_decides_later(active: ActiveExport, ended: bool) -> None:
    active.spool.kept = True
    await active.stop("the server was stopped", ended=ended)
    assert active.spool.kept is not ended
