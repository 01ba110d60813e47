"""The throttled notifier: it wakes every waiter, many less often than one, and lets the event loop run in between.

Where time matters, the clock of the loop jumps to the next timer instead of waiting for it. A second of publishing to a
thousand waiters then takes as long as the wake-ups take to run, and the numbers are the same on every machine.
"""

import asyncio
import gc
import os
import resource
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.notifier import GROUP, PAUSE_PER_WAITER, Notifier
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume

PATIENCE = 20.0  # seconds until a test that waits has failed
INTERVAL = 0.005  # seconds between two moves of a frontier, half of the spool's
MOVES = 200  # a second of them
FIRST = b"id\n1\n"
CHUNKS = [b"%d,%s\n" % (number, b"x" * (number % 97)) for number in range(300)]

T = TypeVar("T")


class JumpingClock(selectors.DefaultSelector):
    """A selector that never waits, and advances the time by its timeout instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits, and no timer is set"
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = JumpingClock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


async def soon(event: Awaitable[T]) -> T:
    return await asyncio.wait_for(event, PATIENCE)


async def let_the_loop_run() -> None:
    """Long enough for everything that waits for nothing but the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


class Waiters:
    """Waiters that wait again as soon as they are woken, and the times of that."""

    def __init__(self, notifier: Notifier, size: int) -> None:
        self.woken: list[list[float]] = [[] for _ in range(size)]
        self._notifier = notifier
        self._tasks = [asyncio.create_task(self._wait_repeatedly(times)) for times in self.woken]

    @property
    def counts(self) -> list[int]:
        return [len(times) for times in self.woken]

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _wait_repeatedly(self, times: list[float]) -> None:
        while True:
            await self._notifier.wait()
            times.append(now())


async def a_second_of_moves(size: int) -> tuple[Waiters, float]:
    """Returns the waiters and the time of the last move, after the pause that follows it."""
    notifier = Notifier()
    waiters = Waiters(notifier, size)
    await let_the_loop_run()
    last = now()
    for _ in range(MOVES):
        last = now()
        notifier.wake_soon()
        await asyncio.sleep(INTERVAL)
    await asyncio.sleep(2 * PAUSE_PER_WAITER * size)
    await waiters.leave()
    return waiters, last


@pytest.mark.parametrize("size", [1, GROUP - 1, GROUP, GROUP + 1, 1000])
async def test_every_waiter_is_woken_once(size: int) -> None:
    notifier = Notifier()
    waiters = Waiters(notifier, size)
    await let_the_loop_run()
    notifier.wake()
    for _ in range(size):
        await asyncio.sleep(0)
    assert waiters.counts == [1] * size
    await waiters.leave()


def test_waiters_are_woken_at_once_after_the_pause() -> None:
    async def scenario() -> None:
        notifier = Notifier()
        waiters = Waiters(notifier, 100)
        await asyncio.sleep(1)
        notifier.wake_soon()
        await let_the_loop_run()
        assert waiters.woken == [[1.0]] * 100
        await waiters.leave()

    in_virtual_time(scenario)


def test_one_waiter_is_woken_for_every_move() -> None:
    waiters, _ = in_virtual_time(lambda: a_second_of_moves(1))
    assert waiters.counts == [MOVES]


@pytest.mark.parametrize("size", [10, 100, 1000, 2000])
def test_waiters_are_woken_less_often_in_proportion_to_their_number(size: int) -> None:
    waiters, _ = in_virtual_time(lambda: a_second_of_moves(size))
    rounds = MOVES * INTERVAL / max(INTERVAL, PAUSE_PER_WAITER * size)
    assert max(waiters.counts) <= rounds + 2
    assert min(waiters.counts) >= min(MOVES, rounds) * 0.9 - 1


def test_thousand_waiters_cost_hardly_more_wake_ups_than_ten() -> None:
    """10 waiters need no pause between two moves: beyond that the cost of all wake-ups is constant."""
    few, _ = in_virtual_time(lambda: a_second_of_moves(10))
    many, _ = in_virtual_time(lambda: a_second_of_moves(1000))
    assert sum(few.counts) == 10 * MOVES
    assert sum(many.counts) <= 2 * sum(few.counts)


@pytest.mark.parametrize("size", [1, 10, 100, 1000])
def test_last_move_reaches_every_waiter_after_the_pause(size: int) -> None:
    waiters, last_move = in_virtual_time(lambda: a_second_of_moves(size))
    assert all(last_move <= times[-1] <= last_move + PAUSE_PER_WAITER * size + 1e-6 for times in waiters.woken)


def test_waiter_that_arrives_during_the_pause_is_woken_at_its_end() -> None:
    async def scenario() -> None:
        notifier = Notifier()
        waiters = Waiters(notifier, 100)
        await asyncio.sleep(0)
        notifier.wake_soon()
        await let_the_loop_run()
        notifier.wake_soon()
        await asyncio.sleep(PAUSE_PER_WAITER * 50)
        late = asyncio.create_task(notifier.wait())
        await asyncio.sleep(PAUSE_PER_WAITER * 49)
        assert not late.done()
        await asyncio.sleep(PAUSE_PER_WAITER * 2)
        assert late.done()
        assert waiters.counts == [2] * 100
        await waiters.leave()

    in_virtual_time(scenario)


def test_wake_ignores_the_pause_and_leaves_no_timer() -> None:
    async def scenario() -> None:
        notifier = Notifier()
        waiters = Waiters(notifier, 1000)
        await asyncio.sleep(0)
        notifier.wake()
        await asyncio.sleep(PAUSE_PER_WAITER)
        notifier.wake_soon()
        notifier.wake()
        woken_at = now()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert {times[-1] for times in waiters.woken} == {woken_at}
        await asyncio.sleep(2 * PAUSE_PER_WAITER * 1000)
        assert waiters.counts == [2] * 1000
        await waiters.leave()

    in_virtual_time(scenario)


async def test_move_without_waiters_wakes_no_later_waiter() -> None:
    notifier = Notifier()
    notifier.wake()
    notifier.wake_soon()
    late = asyncio.create_task(notifier.wait())
    await let_the_loop_run()
    assert not late.done()
    late.cancel()


async def test_event_loop_runs_between_two_groups() -> None:
    """Also when the next notification comes before all waiters of the last one have been woken."""
    notifier = Notifier()
    story: list[str] = []

    async def follow() -> None:
        for _ in range(2):
            await notifier.wait()
            story.append("woken")

    async def serve() -> None:
        while story.count("woken") < 2000:
            story.append("turn")
            notifier.wake()
            await asyncio.sleep(0)

    followers = [asyncio.create_task(follow()) for _ in range(1000)]
    await let_the_loop_run()
    await soon(serve())
    between = [len(run.split()) for run in " ".join(story).split("turn")]
    assert max(between) == GROUP
    await asyncio.gather(*followers)


async def test_waiter_that_waits_again_during_a_notification_is_not_woken_twice() -> None:
    notifier = Notifier()
    waiters = Waiters(notifier, 10 * GROUP)
    await let_the_loop_run()
    notifier.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < sum(waiters.counts) < 10 * GROUP
    notifier.wake()
    for _ in range(40):
        await asyncio.sleep(0)
    again = waiters.counts.count(2)
    assert 0 < again < 10 * GROUP
    assert waiters.counts.count(1) == 10 * GROUP - again
    await waiters.leave()


async def test_cancelled_waiters_are_forgotten() -> None:
    def futures() -> int:
        gc.collect()
        return sum(type(found) is asyncio.Future for found in gc.get_objects())

    notifier = Notifier()
    before = futures()
    waiters = Waiters(notifier, 1000)
    await let_the_loop_run()
    assert futures() >= before + 1000
    await waiters.leave()
    del waiters
    assert futures() <= before + 10
    notifier.wake()


def test_cancelled_waiters_cause_no_pause() -> None:
    async def scenario() -> None:
        notifier = Notifier()
        gone = Waiters(notifier, 1000)
        await asyncio.sleep(0)
        await gone.leave()
        notifier.wake()
        waiters = Waiters(notifier, 1)
        await asyncio.sleep(INTERVAL)
        notifier.wake_soon()
        await let_the_loop_run()
        assert waiters.woken == [[INTERVAL]]
        await waiters.leave()

    in_virtual_time(scenario)


async def test_waiters_cancelled_during_a_notification_do_not_stop_it() -> None:
    notifier = Notifier()
    waiters = [asyncio.create_task(notifier.wait()) for _ in range(10 * GROUP)]
    await let_the_loop_run()
    notifier.wake()
    for waiter in waiters[1::2]:
        waiter.cancel()
    await soon(asyncio.wait(waiters))
    assert all(waiter.cancelled() for waiter in waiters[1::2])
    assert all(waiter.exception() is None for waiter in waiters[::2])


@pytest.fixture
def room_for_files() -> Iterator[None]:
    """A thousand followers have a thousand files open."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if most == resource.RLIM_INFINITY else min(4096, most)
    if wanted < 2000:
        pytest.skip(f"a process may have only {most} files open here (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, wanted), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


async def read_to_the_end(spool: Spool) -> bytes:
    found = bytearray()
    with Follower(spool) as follower:
        async for extent in follower:
            found += os.pread(follower.file.fileno(), extent.length, extent.offset)
    return bytes(found)


@pytest.fixture
def pause_per_waiter() -> float:
    return PAUSE_PER_WAITER


@pytest.fixture
async def spool(tmp_path: Path, executor: ThreadPoolExecutor, pause_per_waiter: float) -> Spool:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor), Notifier(pause_per_waiter))
    spool.open()
    return spool


@pytest.mark.usefixtures("room_for_files")
async def test_thousand_followers_read_the_same_bytes(spool: Spool) -> None:
    followers = [asyncio.create_task(read_to_the_end(spool)) for _ in range(1000)]
    for page in CHUNKS:
        await spool.append(page, 1)
        await asyncio.sleep(0.001)
    await spool.finish()
    spool.seal()
    assert set(await soon(asyncio.gather(*followers))) == {b"".join(CHUNKS)}


endless_pause = pytest.mark.parametrize("pause_per_waiter", [3600.0])
"""The pause after the first notification is longer than any test: a waiter that is woken again did not wait for it."""


@pytest.fixture
async def pausing(spool: Spool) -> list["asyncio.Task[bytes]"]:
    """Followers that have been woken for the first page, while the frontier has moved beyond it in the pause."""
    followers = [asyncio.create_task(read_to_the_end(spool)) for _ in range(100)]
    await let_the_loop_run()
    await spool.append(FIRST, 1)
    await soon(spool.moved_beyond(0))
    await let_the_loop_run()
    await spool.append(b"2\n", 1)
    await spool.finish()
    await let_the_loop_run()
    assert not any(follower.done() for follower in followers)
    return followers


@endless_pause
async def test_seal_wakes_all_followers_during_the_pause(spool: Spool, pausing: list["asyncio.Task[bytes]"]) -> None:
    spool.seal()
    assert set(await soon(asyncio.gather(*pausing))) == {FIRST + b"2\n"}


@endless_pause
async def test_failure_wakes_every_follower_during_the_pause(
    spool: Spool, pausing: list["asyncio.Task[bytes]"]
) -> None:
    spool.fail("the database is gone")
    ends = await soon(asyncio.gather(*pausing, return_exceptions=True))
    assert {(type(end), str(end)) for end in ends} == {(TruncatedError, "the database is gone")}
    await spool.discard()
