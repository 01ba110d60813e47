"""Cancels an export that has had no follower for some time."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.spool.spool import Spool


class Abandonment:
    """Counts the followers of an unfinished export, and runs a timer while there are none. Does nothing until armed."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._followers = 0
        self._start_timer: Callable[[], asyncio.TimerHandle] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, seconds: float, cancel: Callable[[], object]) -> None:
        """Calls `cancel` when the export has had no follower for `seconds`, unless it has ended."""
        loop = asyncio.get_running_loop()

        def expire() -> None:
            if not self._spool.ended:
                cancel()

        self._start_timer = lambda: loop.call_later(seconds, expire)
        self._timer = self._start_timer()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Counts a follower while the context is open."""
        self._followers += 1
        self.stop_timer()
        try:
            yield
        finally:
            self._followers -= 1
            if self._start_timer and not self._followers and not self._spool.ended:
                self._timer = self._start_timer()

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
