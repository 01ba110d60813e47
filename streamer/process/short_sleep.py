"""Sleeps of less than a millisecond.

The timers of the event loop have a resolution of a millisecond. Where Python offers the timers of the kernel (3.13, on
Linux), the event loop waits for one as for a socket; elsewhere a thread sleeps, which costs some three times the CPU.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class ShortSleep(Protocol):
    """One sleep at a time."""

    async def sleep(self, seconds: float) -> None: ...

    def close(self) -> None: ...


class ThreadSleep:
    """A thread of the event loop's executor sleeps."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def sleep(self, seconds: float) -> None:
        await self._loop.run_in_executor(None, time.sleep, seconds)

    def close(self) -> None:
        """There is nothing to close."""


if sys.platform == "linux" and sys.version_info >= (3, 13):

    class TimerSleep:
        """A timer of the kernel wakes the event loop."""

        def __init__(self) -> None:
            self._loop = asyncio.get_running_loop()
            self._timer = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
            self._expired = self._loop.create_future()
            self._loop.add_reader(self._timer, self._expire)

        async def sleep(self, seconds: float) -> None:
            self._expired = self._loop.create_future()
            os.timerfd_settime(self._timer, initial=seconds)
            await self._expired

        def close(self) -> None:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)

        def _expire(self) -> None:
            try:
                os.read(self._timer, 8)
            except BlockingIOError:  # it was set again in the meantime
                return
            if not self._expired.done():
                self._expired.set_result(None)

    Best = TimerSleep
else:
    Best = ThreadSleep


@contextmanager
def short_sleep() -> Iterator[ShortSleep]:
    """Yields the best way to sleep that this Python has."""
    sleeping = Best()
    try:
        yield sleeping
    finally:
        sleeping.close()
