"""How long an export goes on without a follower.

The timer runs on a loop whose clock the test moves, so a minute costs nothing.
"""

import pytest

from streamer.jobs.abandonment import Abandonment
from streamer.spool.spool import Spool
from tests.unit.clock import Clock

MINUTE = 60.0


@pytest.fixture
def abandonment(spool: Spool) -> Abandonment:
    return Abandonment(spool)


async def test_export_without_followers_is_cancelled_once(abandonment: Abandonment, clock: Clock) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    await clock.advance(MINUTE - 0.01)
    assert cancelled == []
    await clock.advance(0.02)
    assert cancelled == ["cancelled"]
    await clock.advance(10 * MINUTE)
    assert cancelled == ["cancelled"]


async def test_export_with_a_follower_is_never_cancelled(abandonment: Abandonment, clock: Clock) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    await clock.advance(MINUTE - 1)
    with abandonment.followed():
        await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_timer_restarts_when_the_last_follower_leaves(abandonment: Abandonment, clock: Clock) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    with abandonment.followed():
        await clock.advance(MINUTE - 1)
    await clock.advance(MINUTE - 1)
    assert cancelled == []
    await clock.advance(2)
    assert cancelled == ["cancelled"]


async def test_export_goes_on_when_one_of_two_followers_leaves(abandonment: Abandonment, clock: Clock) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    with abandonment.followed():
        with abandonment.followed():
            await clock.advance(1)
        await clock.advance(100 * MINUTE)
        assert cancelled == []
    await clock.advance(MINUTE + 1)
    assert cancelled == ["cancelled"]


async def test_new_follower_stops_the_timer(abandonment: Abandonment, clock: Clock) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    for _ in range(3):
        with abandonment.followed():
            await clock.advance(1)
        await clock.advance(MINUTE - 1)
    with abandonment.followed():
        await clock.advance(MINUTE)
        assert cancelled == []


async def test_follower_that_ends_with_an_error_has_left(abandonment: Abandonment, clock: Clock) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    with pytest.raises(ConnectionResetError), abandonment.followed():
        raise ConnectionResetError
    await clock.advance(MINUTE + 1)
    assert cancelled == ["cancelled"]


async def test_follower_that_leaves_after_the_end_starts_no_timer(
    abandonment: Abandonment, spool: Spool, clock: Clock
) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    with abandonment.followed():
        await spool.finish()
        spool.seal()
    await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_follower_that_leaves_after_a_failure_starts_no_timer(
    abandonment: Abandonment, spool: Spool, clock: Clock
) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    with abandonment.followed():
        spool.fail("no room")
    await clock.advance(100 * MINUTE)
    assert cancelled == []


async def test_follower_of_an_export_without_a_limit_starts_no_timer(
    abandonment: Abandonment, spool: Spool, clock: Clock
) -> None:
    with abandonment.followed():
        await clock.advance(1)
    await clock.advance(100 * MINUTE)
    assert not spool.ended


async def test_timer_that_expires_after_the_end_cancels_nothing(
    abandonment: Abandonment, spool: Spool, clock: Clock
) -> None:
    cancelled: list[str] = []
    abandonment.arm(MINUTE, lambda: cancelled.append("cancelled"))
    with abandonment.followed():
        pass
    await spool.append(b"1\n", 1)
    await spool.finish()
    spool.seal()
    await clock.advance(2 * MINUTE)
    assert cancelled == []
