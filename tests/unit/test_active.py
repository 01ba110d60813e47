"""An unfinished export: the progress it shows, and how long it goes on when nobody follows.

The abandonment timer runs on a loop whose clock the test moves, so a minute costs nothing and nothing is left to luck.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from streamer.errors import ExportFailure, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume

SNAPSHOT_AT = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
MINUTE = 60.0
PATIENCE = 10.0  # seconds until a test that waits has failed


class Clock:
    """The loop's time. It stands still until it is moved."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self.now)

    async def advance(self, seconds: float) -> None:
        """Moves on, and lets every timer that is due run."""
        self.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(asyncio.get_running_loop(), monkeypatch)


async def nobody_notes() -> bool:
    raise AssertionError("nobody was to be served")


@pytest.fixture
async def live(tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[ActiveExport]:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor))
    spool.open()
    yield ActiveExport(UUID(int=1), spool, note_served=nobody_notes)
    spool.fail("the test is over")
    await spool.discard()


async def publish(live: ActiveExport, rows: int, page: bytes = b"") -> None:
    """A page that can be read on return; unless it is given, it has two bytes a row."""
    page = page or b"1\n" * rows
    wanted = live.spool.frontier + len(page)
    await live.spool.append(page, rows)
    async with asyncio.timeout(PATIENCE):
        await live.spool.moved_beyond(wanted - 1)
    assert live.spool.frontier == wanted


async def percentages(live: ActiveExport, expected: int, pages: list[int]) -> list[float]:
    live.begin(SNAPSHOT_AT, b"", lambda: expected)
    seen = []
    for rows in pages:
        await publish(live, rows)
        seen.append(live.progress().percentage)
    return seen


async def test_queued_export_has_no_progress_and_a_total_of_nothing(live: ActiveExport) -> None:
    progress = live.progress()
    assert (progress.total_rows, progress.processed_rows, progress.bytes) == (0, 0, 0)
    assert (progress.percentage, progress.rows_per_second, progress.estimated) == (0.0, 0, True)
    assert live.waiting
    assert (live.id, live.snapshot_at) == (UUID(int=1), None)


async def test_progress_tells_exact_rows_and_bytes_of_what_can_be_read(live: ActiveExport) -> None:
    live.begin(SNAPSHOT_AT, b"", lambda: 1000)
    await publish(live, 1, page=b"id\n1\n")
    assert (live.progress().processed_rows, live.progress().bytes) == (1, 5)
    await publish(live, 249)
    progress = live.progress()
    assert (progress.processed_rows, progress.bytes, progress.total_rows) == (250, 503, 1000)
    assert progress.percentage == 25.0
    assert progress.estimated
    assert live.snapshot_at == SNAPSHOT_AT


@pytest.mark.parametrize(
    ("expected", "pages", "shown"),
    [
        (1000, [1, 249, 250, 250, 249, 1], [0.1, 25.0, 50.0, 75.0, 99.9, 99.9]),
        (3, [1, 1, 1], [33.3, 66.7, 99.9]),
        (10, [5, 5, 5, 1000], [50.0, 99.9, 99.9, 99.9]),  # an estimate that is too low
        (0, [1, 1000], [99.9, 99.9]),
        (1, [1], [99.9]),
        (100_000_000, [1], [0.0]),
    ],
)
async def test_percentage_grows_with_the_estimate_and_stays_below_100(
    live: ActiveExport, expected: int, pages: list[int], shown: list[float]
) -> None:
    assert await percentages(live, expected, pages) == shown


async def test_estimate_of_no_rows_shows_nothing_until_there_is_one(live: ActiveExport) -> None:
    live.begin(SNAPSHOT_AT, b"", lambda: 0)
    assert (live.progress().total_rows, live.progress().percentage) == (0, 0.0)


async def test_total_is_never_below_the_rows_that_are_there(live: ActiveExport) -> None:
    live.begin(SNAPSHOT_AT, b"", lambda: 10)
    await publish(live, 25)
    assert live.progress().total_rows == 25


async def test_whole_export_is_not_at_100_before_its_row_says_so(live: ActiveExport) -> None:
    live.begin(SNAPSHOT_AT, b"", lambda: 100)
    await publish(live, 100)
    await live.spool.finish()
    live.spool.seal()
    assert live.progress().percentage == 99.9


async def test_speed_counts_from_the_beginning_of_the_query(
    live: ActiveExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(live, 100)
    clock = Clock(asyncio.get_running_loop(), monkeypatch)
    clock.now = 0.5
    assert live.rows_per_second() == 0
    live.begin(SNAPSHOT_AT, b"", lambda: 1000)
    assert live.rows_per_second() == 0
    await clock.advance(0.5)
    assert live.rows_per_second() == live.progress().rows_per_second == 200
    await clock.advance(3.5)
    assert live.rows_per_second() == 25


async def test_nobody_follows_and_the_export_is_cancelled_once(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    await clock.advance(MINUTE - 0.01)
    assert cancelled == []
    await clock.advance(0.02)
    assert cancelled == ["cancelled"]
    await clock.advance(10 * MINUTE)
    assert cancelled == ["cancelled"]


async def test_follower_keeps_the_export_however_long_it_stays(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    await clock.advance(MINUTE - 1)
    with live.followed():
        await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_last_follower_leaves_and_the_time_starts_again(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    with live.followed():
        await clock.advance(MINUTE - 1)
    await clock.advance(MINUTE - 1)
    assert cancelled == []
    await clock.advance(2)
    assert cancelled == ["cancelled"]


async def test_one_of_two_followers_leaves_and_the_export_goes_on(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    with live.followed():
        with live.followed():
            await clock.advance(1)
        await clock.advance(100 * MINUTE)
        assert cancelled == []
    await clock.advance(MINUTE + 1)
    assert cancelled == ["cancelled"]


async def test_new_follower_within_the_time_keeps_the_export(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    for _ in range(3):
        with live.followed():
            await clock.advance(1)
        await clock.advance(MINUTE - 1)
    with live.followed():
        await clock.advance(MINUTE)
        assert cancelled == []


async def test_follower_that_breaks_off_has_left(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    with pytest.raises(ConnectionResetError), live.followed():
        raise ConnectionResetError
    await clock.advance(MINUTE + 1)
    assert cancelled == ["cancelled"]


async def test_follower_that_leaves_after_the_end_starts_no_time(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    with live.followed():
        await live.spool.finish()
        live.spool.seal()
    await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_follower_that_leaves_after_a_failure_starts_no_time(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    with live.followed():
        live.spool.fail("no room")
    await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_stopped_export_is_not_cancelled_again(live: ActiveExport, clock: Clock) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    await live.stop("the export was cancelled")
    await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_follower_of_an_export_that_may_be_left_alone_starts_no_time(live: ActiveExport, clock: Clock) -> None:
    with live.followed():
        await clock.advance(1)
    await clock.advance(100 * MINUTE)
    assert not live.spool.ended


class Work:
    """A run that goes on until it is cancelled, and then tidies up until it may end."""

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


async def test_stop_breaks_followers_and_waits_for_the_run_to_end(live: ActiveExport) -> None:
    work = Work()
    task = asyncio.create_task(work.run())
    running = asyncio.create_task(live.run(task))
    await work.started.wait()
    assert not live.waiting
    assert not running.done()
    stopping = asyncio.create_task(live.stop("the export was cancelled"))
    await work.tidying.wait()
    assert not stopping.done()
    with Follower(live.spool) as follower, pytest.raises(TruncatedError, match="the export was cancelled"):
        await anext(follower)
    work.may_end.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(stopping, running)
    assert task.cancelled()


async def test_stop_of_a_run_that_is_ending_already_lets_it_tidy_up(live: ActiveExport) -> None:
    work = Work()
    running = asyncio.create_task(live.run(asyncio.create_task(work.run())))
    await work.started.wait()
    live.abort("its report found it cancelled")
    await work.tidying.wait()
    stopping = asyncio.create_task(live.stop("the export was cancelled"))
    for _ in range(5):
        await asyncio.sleep(0)
    work.may_end.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(stopping, running)
    assert work.tidy


async def test_stop_of_a_queued_export_returns_at_once(live: ActiveExport) -> None:
    async with asyncio.timeout(PATIENCE):
        await live.stop("the server was stopped")
        await live.finished()
    assert live.waiting
    assert live.spool.broken.result() == "the server was stopped"


async def test_run_that_fails_has_finished_all_the_same(live: ActiveExport) -> None:
    async def work() -> None:
        raise RuntimeError("a bug")

    task = asyncio.create_task(work())
    async with asyncio.timeout(PATIENCE):
        await live.run(task)
        await live.finished()
    assert isinstance(task.exception(), RuntimeError)


async def test_nothing_is_abandoned_when_the_last_follower_left_before_the_end(
    live: ActiveExport, clock: Clock
) -> None:
    cancelled: list[str] = []
    live.cancel_if_abandoned(MINUTE, lambda: cancelled.append("cancelled"))
    with live.followed():
        pass
    await live.spool.append(b"1\n", 1)
    await live.spool.finish()
    live.spool.seal()
    await clock.advance(2 * MINUTE)
    assert cancelled == []


class Table:
    """What the table answers when it is told that a byte is served: an answer for each time, or an error."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def note(self) -> object:
        self.asked += 1
        await self.open.wait()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(table: Table, spool: Spool) -> ActiveExport:
    return ActiveExport(UUID(int=1), spool, note_served=table.note)


async def test_table_is_told_once_for_a_crowd_and_nobody_goes_on_before_it_has_answered(live: ActiveExport) -> None:
    table = Table(True)
    export = told(table, live.spool)
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
        await export.serve()
    assert table.asked == 1


async def test_follower_that_leaves_while_the_table_is_told_takes_nobody_with_it(live: ActiveExport) -> None:
    table = Table(True)
    export = told(table, live.spool)
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
async def test_table_that_did_not_say_yes_is_asked_again_by_the_next_follower(
    live: ActiveExport, refusal: Exception | None
) -> None:
    table = Table(refusal, True)
    export = told(table, live.spool)
    for one in await asyncio.gather(export.ensure_served(), export.ensure_served(), return_exceptions=True):
        assert isinstance(one, Unavailable)
        assert one.retry_after
    assert (table.asked, export.served) == (1, False)
    await export.ensure_served()
    assert (table.asked, export.served) == (2, True)


async def test_a_run_that_would_begin_with_other_bytes_is_refused(live: ActiveExport) -> None:
    """The bytes before the rows may have left by then."""
    for _ in range(2):
        live.begin(SNAPSHOT_AT, b"id\n", int)
        assert await live.early() == b"id\n"
        live.reset()
    with pytest.raises(ExportFailure, match="has changed"):
        live.begin(SNAPSHOT_AT, b"id,name\n", int)


async def test_nothing_is_early_once_there_is_a_row_or_the_end(live: ActiveExport) -> None:
    live.begin(SNAPSHOT_AT, b"id\n", int)
    await publish(live, 1)
    assert await live.early() == b""
    live.spool.fail("cancelled")
    assert await live.early() == b""
