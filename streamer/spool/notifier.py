"""A throttled notifier: its cost per second is bounded, whatever the number of waiters.

A frontier moves up to 100 times a second, and waking one waiter costs about 100 µs. The notifier therefore pauses after
each notification, in proportion to the number of waiters woken. It wakes them in small groups, between which the event
loop runs everything else.
"""

import asyncio
from collections import deque

PAUSE_PER_WAITER = 0.0005  # seconds for each waiter woken: waking takes no more than a fifth of the loop
GROUP = 16  # waiters woken in one iteration of the loop


class Notifier:
    """Waiters of one event loop. `pause_per_waiter` is in seconds."""

    def __init__(self, pause_per_waiter: float = PAUSE_PER_WAITER) -> None:
        self._pause_per_waiter = pause_per_waiter
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order of arrival
        self._due: deque[asyncio.Future[None]] = deque()
        self._pause_end = 0.0  # by the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Returns after the next notification."""
        waiter = self._loop.create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def wake_soon(self) -> None:
        """Wakes all waiters at the end of the pause, or at once if it is over."""
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_at(self._pause_end, self.wake)

    def wake(self) -> None:
        """Wakes all waiters now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pause_end = self._loop.time() + self._pause_per_waiter * len(self._waiting)
        is_waking = bool(self._due)
        self._due.extend(self._waiting)
        self._waiting.clear()
        if not is_waking:
            self._wake_group()

    def _wake_group(self) -> None:
        for _ in range(min(GROUP, len(self._due))):
            waiter = self._due.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._due:
            self._loop.call_soon(self._wake_group)
