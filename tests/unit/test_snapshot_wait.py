"""How long an export has waited for a snapshot."""

from streamer.jobs.snapshot_wait import SnapshotWait
from tests.unit.clock import Clock


async def test_time_in_the_queue_of_an_available_source_does_not_count(clock: Clock) -> None:
    wait = SnapshotWait()
    await clock.advance(60)
    assert (wait.runs, wait.seconds(None)) == (0, 0)


async def test_wait_begins_with_the_first_run_without_a_snapshot(clock: Clock) -> None:
    wait = SnapshotWait()
    await clock.advance(60)
    wait.add_run()
    await clock.advance(5)
    wait.add_run()
    await clock.advance(5)
    assert (wait.runs, wait.seconds(None)) == (2, 10)


async def test_wait_ends_with_a_snapshot(clock: Clock) -> None:
    wait = SnapshotWait()
    wait.add_run()
    await clock.advance(5)
    wait.reset()
    assert (wait.runs, wait.seconds(None)) == (0, 0)


async def test_source_that_went_away_before_the_first_run_counts_from_then(clock: Clock) -> None:
    wait = SnapshotWait()
    await clock.advance(10)
    away_since = clock.now
    await clock.advance(10)
    assert wait.seconds(away_since) == 10
    wait.add_run()
    await clock.advance(10)
    assert wait.seconds(away_since) == 20


async def test_time_before_the_export_existed_does_not_count(clock: Clock) -> None:
    away_since = clock.now
    await clock.advance(100)
    wait = SnapshotWait()
    await clock.advance(10)
    assert wait.seconds(away_since) == 10
