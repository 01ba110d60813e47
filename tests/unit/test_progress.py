"""The progress that an export shows while it runs."""

import asyncio

import pytest

from streamer.jobs.progress import MAX_UNFINISHED, ProgressMeter
from streamer.spool.spool import Spool
from tests.unit.clock import Clock

PATIENCE = 10.0  # seconds until a test that waits has failed


@pytest.fixture
def meter(spool: Spool) -> ProgressMeter:
    return ProgressMeter(spool)


async def publish(spool: Spool, rows: int, page: bytes = b"") -> None:
    """Returns when the page can be read. Without `page`, each row has two bytes."""
    page = page or b"1\n" * rows
    wanted = spool.frontier + len(page)
    await spool.append(page, rows)
    async with asyncio.timeout(PATIENCE):
        await spool.moved_beyond(wanted - 1)
    assert spool.frontier == wanted


async def percentages(meter: ProgressMeter, spool: Spool, expected: int, pages: list[int]) -> list[float]:
    meter.start(lambda: expected)
    seen = []
    for rows in pages:
        await publish(spool, rows)
        seen.append(meter.progress().percentage)
    return seen


async def test_queued_export_has_no_progress_and_no_total(meter: ProgressMeter) -> None:
    progress = meter.progress()
    assert (progress.total_rows, progress.processed_rows, progress.bytes) == (0, 0, 0)
    assert (progress.percentage, progress.rows_per_second, progress.estimated) == (0.0, 0, True)


async def test_progress_counts_the_rows_and_bytes_that_can_be_read(meter: ProgressMeter, spool: Spool) -> None:
    meter.start(lambda: 1000)
    await publish(spool, 1, page=b"id\n1\n")
    assert (meter.progress().processed_rows, meter.progress().bytes) == (1, 5)
    await publish(spool, 249)
    progress = meter.progress()
    assert (progress.processed_rows, progress.bytes, progress.total_rows) == (250, 503, 1000)
    assert progress.percentage == 25.0
    assert progress.estimated


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
    meter: ProgressMeter, spool: Spool, expected: int, pages: list[int], shown: list[float]
) -> None:
    assert await percentages(meter, spool, expected, pages) == shown


async def test_estimate_of_no_rows_shows_no_percentage_before_the_first_row(meter: ProgressMeter) -> None:
    meter.start(lambda: 0)
    assert (meter.progress().total_rows, meter.progress().percentage) == (0, 0.0)


async def test_total_is_never_below_the_rows_that_can_be_read(meter: ProgressMeter, spool: Spool) -> None:
    meter.start(lambda: 10)
    await publish(spool, 25)
    assert meter.progress().total_rows == 25


async def test_sealed_export_stays_below_100_percent(meter: ProgressMeter, spool: Spool) -> None:
    meter.start(lambda: 100)
    await publish(spool, 100)
    await spool.finish()
    spool.seal()
    assert meter.progress().percentage == MAX_UNFINISHED == 99.9


async def test_speed_counts_from_the_beginning_of_the_query(
    meter: ProgressMeter, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(spool, 100)
    clock = Clock(asyncio.get_running_loop(), monkeypatch)
    clock.now = 0.5
    assert meter.rows_per_second() == 0
    meter.start(lambda: 1000)
    assert meter.rows_per_second() == 0
    await clock.advance(0.5)
    assert meter.rows_per_second() == meter.progress().rows_per_second == 200
    await clock.advance(3.5)
    assert meter.rows_per_second() == 25


async def test_second_run_starts_from_nothing_but_the_percentage(meter: ProgressMeter, spool: Spool) -> None:
    meter.start(lambda: 4)
    await publish(spool, 3)
    assert meter.progress().percentage == 75.0
    meter.reset()
    await spool.rewind()
    waiting = meter.progress()
    assert (waiting.total_rows, waiting.processed_rows, waiting.bytes, waiting.rows_per_second) == (0, 0, 0, 0)
    meter.start(lambda: 4)
    spool.open()
    await publish(spool, 1)
    progress = meter.progress()
    assert (progress.processed_rows, progress.total_rows, progress.percentage) == (1, 4, 75.0)
