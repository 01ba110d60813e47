"""Short sleeps, each way that this Python has: the timer of the kernel exists on Linux since Python 3.13."""

import asyncio
import os
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import pytest

from streamer.process.short_sleep import Best, ShortSleep, ThreadSleep, short_sleep

SHORT = 0.00025  # seconds
LONG = 0.05


WAYS: list[type[ShortSleep]] = list({each.__name__: each for each in (ThreadSleep, Best)}.values())


@pytest.fixture(params=WAYS)
async def sleeper(request: Any) -> AsyncIterator[ShortSleep]:
    sleeper: ShortSleep = request.param()
    yield sleeper
    sleeper.close()


async def seconds(sleeper: ShortSleep, duration: float) -> float:
    start = perf_counter()
    await sleeper.sleep(duration)
    return perf_counter() - start


async def test_a_sleep_is_as_long_as_asked_for_and_may_be_shorter_than_a_millisecond(sleeper: ShortSleep) -> None:
    """The machine may delay each of them, not all."""
    slept = [await seconds(sleeper, SHORT) for _ in range(50)]
    assert min(slept) >= SHORT
    assert min(slept) < 0.001


async def test_the_event_loop_runs_during_a_sleep(sleeper: ShortSleep) -> None:
    sleeping = asyncio.ensure_future(sleeper.sleep(LONG))
    await asyncio.sleep(0)
    assert not sleeping.done()
    await sleeping


async def test_a_cancelled_sleep_does_not_end_the_next_one(sleeper: ShortSleep) -> None:
    sleeping = asyncio.ensure_future(sleeper.sleep(LONG / 2))
    await asyncio.sleep(0)
    sleeping.cancel()
    await asyncio.wait({sleeping})
    assert sleeping.cancelled()
    assert await seconds(sleeper, LONG) >= LONG


async def test_a_cancelled_sleep_that_expires_does_no_harm(sleeper: ShortSleep) -> None:
    sleeping = asyncio.ensure_future(sleeper.sleep(SHORT))
    await asyncio.sleep(0)
    sleeping.cancel()
    await asyncio.sleep(LONG)
    assert await seconds(sleeper, SHORT) >= SHORT


async def test_nothing_stays_open() -> None:
    with short_sleep() as sleeper:
        await sleeper.sleep(SHORT)
    open_files = os.listdir("/proc/self/fd")  # noqa: PTH208 - the numbers alone
    with short_sleep() as sleeper:
        await sleeper.sleep(SHORT)
    assert os.listdir("/proc/self/fd") == open_files  # noqa: PTH208
