"""Waking those who wait, at a price that does not grow with their number.

A frontier moves up to 200 times a second, and to wake one waiter costs some 100 µs. So a crowd is woken less often than
a single one: after each time there is a rest, in proportion to how many were woken. And it is woken in small groups,
between which the event loop serves everybody else.
"""

import asyncio
from collections import deque

REST_PER_WAITER = 0.0005  # seconds for each one woken: a crowd of followers takes no more than a fifth of the loop
GROUP = 16  # woken in one turn of the loop


class Notifier:
    """A crowd of waiters of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order they came
        self._due: deque[asyncio.Future[None]] = deque()
        self._rested = 0.0  # when they may be woken again, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Returns after the next time all are woken, perhaps a little later."""
        waiter = self._loop.create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def wake_soon(self) -> None:
        """Wakes all who wait, at once or when the rest since the last time is over."""
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_at(self._rested, self.wake)

    def wake(self) -> None:
        """Wakes all who wait, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rested = self._loop.time() + REST_PER_WAITER * len(self._waiting)
        begun = bool(self._due)
        self._due.extend(self._waiting)
        self._waiting.clear()
        if not begun:
            self._wake_group()

    def _wake_group(self) -> None:
        for _ in range(min(GROUP, len(self._due))):
            waiter = self._due.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._due:
            self._loop.call_soon(self._wake_group)
