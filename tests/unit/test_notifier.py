"""Waking a crowd: nobody is forgotten, many are woken less often than one, and the loop has its turns in between.

Time is the test's own wherever it matters: a loop whose clock jumps to the next timer instead of waiting for it. A
thousand waiters over a second of publishing then take as long as their wake-ups take to run, and the numbers are the
same on every machine.
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
SPACING = 0.005  # seconds between two moves of a frontier, as the spool has it
MOVES = 200  # a second of them
FIRST = b"id\n1\n"
PAGES = [b"%d,%s\n" % (number, b"x" * (number % 97)) for number in range(300)]

T = TypeVar("T")


class JumpingClock(selectors.DefaultSelector):
    """A selector that never waits: the time that it was to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and no timer is set: nobody will ever be woken"
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


class Crowd:
    """Waiters that wait again as soon as they are woken, and when that was."""

    def __init__(self, wakeups: Notifier, size: int) -> None:
        self.woken: list[list[float]] = [[] for _ in range(size)]
        self._wakeups = wakeups
        self._tasks = [asyncio.create_task(self._wait_again_and_again(times)) for times in self.woken]

    @property
    def counts(self) -> list[int]:
        return [len(times) for times in self.woken]

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _wait_again_and_again(self, times: list[float]) -> None:
        while True:
            await self._wakeups.wait()
            times.append(now())


async def a_second_of_moves(size: int) -> tuple[Crowd, float]:
    """The crowd, and when the last move was. The rest that follows it is over when this returns."""
    wakeups = Notifier()
    crowd = Crowd(wakeups, size)
    await let_the_loop_run()
    last = now()
    for _ in range(MOVES):
        last = now()
        wakeups.wake_soon()
        await asyncio.sleep(SPACING)
    await asyncio.sleep(2 * PAUSE_PER_WAITER * size)
    await crowd.leave()
    return crowd, last


@pytest.mark.parametrize("size", [1, GROUP - 1, GROUP, GROUP + 1, 1000])
async def test_everybody_is_woken_once(size: int) -> None:
    wakeups = Notifier()
    crowd = Crowd(wakeups, size)
    await let_the_loop_run()
    wakeups.wake()
    for _ in range(size):
        await asyncio.sleep(0)
    assert crowd.counts == [1] * size
    await crowd.leave()


def test_those_who_have_rested_are_woken_at_once() -> None:
    async def scenario() -> None:
        wakeups = Notifier()
        crowd = Crowd(wakeups, 100)
        await asyncio.sleep(1)
        wakeups.wake_soon()
        await let_the_loop_run()
        assert crowd.woken == [[1.0]] * 100
        await crowd.leave()

    in_virtual_time(scenario)


def test_one_waiter_is_woken_for_every_move() -> None:
    crowd, _ = in_virtual_time(lambda: a_second_of_moves(1))
    assert crowd.counts == [MOVES]


@pytest.mark.parametrize("size", [10, 100, 1000, 2000])
def test_a_crowd_is_woken_less_often_in_proportion_to_its_size(size: int) -> None:
    crowd, _ = in_virtual_time(lambda: a_second_of_moves(size))
    rounds = MOVES * SPACING / max(SPACING, PAUSE_PER_WAITER * size)
    assert max(crowd.counts) <= rounds + 2
    assert min(crowd.counts) >= min(MOVES, rounds) * 0.9 - 1


def test_a_thousand_together_are_woken_hardly_more_often_than_ten() -> None:
    """10 waiters need no rest between two moves: what all wake-ups cost is the same from there on."""
    few, _ = in_virtual_time(lambda: a_second_of_moves(10))
    many, _ = in_virtual_time(lambda: a_second_of_moves(1000))
    assert sum(few.counts) == 10 * MOVES
    assert sum(many.counts) <= 2 * sum(few.counts)


@pytest.mark.parametrize("size", [1, 10, 100, 1000])
def test_the_last_move_reaches_everybody_when_the_rest_is_over(size: int) -> None:
    crowd, last_move = in_virtual_time(lambda: a_second_of_moves(size))
    assert all(last_move <= times[-1] <= last_move + PAUSE_PER_WAITER * size + 1e-6 for times in crowd.woken)


def test_a_waiter_who_comes_during_the_rest_is_woken_at_its_end_with_all_others() -> None:
    async def scenario() -> None:
        wakeups = Notifier()
        crowd = Crowd(wakeups, 100)
        await asyncio.sleep(0)
        wakeups.wake_soon()
        await let_the_loop_run()
        wakeups.wake_soon()
        await asyncio.sleep(PAUSE_PER_WAITER * 50)
        late = asyncio.create_task(wakeups.wait())
        await asyncio.sleep(PAUSE_PER_WAITER * 49)
        assert not late.done()
        await asyncio.sleep(PAUSE_PER_WAITER * 2)
        assert late.done()
        assert crowd.counts == [2] * 100
        await crowd.leave()

    in_virtual_time(scenario)


def test_to_wake_now_waits_for_no_rest_and_leaves_no_timer_behind() -> None:
    async def scenario() -> None:
        wakeups = Notifier()
        crowd = Crowd(wakeups, 1000)
        await asyncio.sleep(0)
        wakeups.wake()
        await asyncio.sleep(PAUSE_PER_WAITER)
        wakeups.wake_soon()
        wakeups.wake()
        woken_at = now()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert {times[-1] for times in crowd.woken} == {woken_at}
        await asyncio.sleep(2 * PAUSE_PER_WAITER * 1000)
        assert crowd.counts == [2] * 1000
        await crowd.leave()

    in_virtual_time(scenario)


async def test_a_move_that_nobody_waits_for_wakes_nobody_later() -> None:
    wakeups = Notifier()
    wakeups.wake()
    wakeups.wake_soon()
    late = asyncio.create_task(wakeups.wait())
    await let_the_loop_run()
    assert not late.done()
    late.cancel()


async def test_the_loop_has_a_turn_between_two_groups() -> None:
    """Also when the next time comes before everybody has been woken from the last."""
    wakeups = Notifier()
    story: list[str] = []

    async def follow() -> None:
        for _ in range(2):
            await wakeups.wait()
            story.append("woken")

    async def serve() -> None:
        while story.count("woken") < 2000:
            story.append("turn")
            wakeups.wake()
            await asyncio.sleep(0)

    followers = [asyncio.create_task(follow()) for _ in range(1000)]
    await let_the_loop_run()
    await soon(serve())
    between = [len(run.split()) for run in " ".join(story).split("turn")]
    assert max(between) == GROUP
    await asyncio.gather(*followers)


async def test_whoever_waits_again_while_the_others_are_being_woken_is_not_woken_twice() -> None:
    wakeups = Notifier()
    crowd = Crowd(wakeups, 10 * GROUP)
    await let_the_loop_run()
    wakeups.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < sum(crowd.counts) < 10 * GROUP
    wakeups.wake()
    for _ in range(40):
        await asyncio.sleep(0)
    again = crowd.counts.count(2)
    assert 0 < again < 10 * GROUP
    assert crowd.counts.count(1) == 10 * GROUP - again
    await crowd.leave()


async def test_cancelled_waiters_are_forgotten() -> None:
    def futures() -> int:
        gc.collect()
        return sum(type(found) is asyncio.Future for found in gc.get_objects())

    wakeups = Notifier()
    before = futures()
    crowd = Crowd(wakeups, 1000)
    await let_the_loop_run()
    assert futures() >= before + 1000
    await crowd.leave()
    del crowd
    assert futures() <= before + 10
    wakeups.wake()


def test_nobody_rests_for_waiters_that_have_gone() -> None:
    async def scenario() -> None:
        wakeups = Notifier()
        gone = Crowd(wakeups, 1000)
        await asyncio.sleep(0)
        await gone.leave()
        wakeups.wake()
        crowd = Crowd(wakeups, 1)
        await asyncio.sleep(SPACING)
        wakeups.wake_soon()
        await let_the_loop_run()
        assert crowd.woken == [[SPACING]]
        await crowd.leave()

    in_virtual_time(scenario)


async def test_waiters_that_go_while_their_turn_comes_keep_nobody_from_being_woken() -> None:
    wakeups = Notifier()
    crowd = [asyncio.create_task(wakeups.wait()) for _ in range(10 * GROUP)]
    await let_the_loop_run()
    wakeups.wake()
    for waiter in crowd[1::2]:
        waiter.cancel()
    await soon(asyncio.wait(crowd))
    assert all(waiter.cancelled() for waiter in crowd[1::2])
    assert all(waiter.exception() is None for waiter in crowd[::2])


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
async def test_a_thousand_followers_read_the_same_bytes(spool: Spool) -> None:
    followers = [asyncio.create_task(read_to_the_end(spool)) for _ in range(1000)]
    for page in PAGES:
        await spool.append(page, 1)
        await asyncio.sleep(0.001)
    await spool.finish()
    spool.seal()
    assert set(await soon(asyncio.gather(*followers))) == {b"".join(PAGES)}


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
