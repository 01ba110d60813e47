"""While the source takes no connection, one export at a time tries to connect.

A source that is away (stopped, starting, failing over, out of connections) is no fault of the export that found it. So
the export returns to the queue without an attempt counted, and the gate closes: one worker passes after a pause, which
grows with each failure, and the others wait. The worker that passes claims the oldest export, so the order of the queue
is kept. When a snapshot has been taken, the gate is open again.

A run that ends frees a connection, so the next attempt is made at once.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.25  # seconds before the second attempt; twice as long before each that follows
MAX_PAUSE = 5.0  # seconds
LOG_INTERVAL = 30.0  # seconds between two log lines while the source is away


class SourceGate:
    """`max_pause` is in seconds."""

    def __init__(self, *, max_pause: float = MAX_PAUSE, clock: Callable[[], float] | None = None) -> None:
        self.away_since: float | None = None  # on the clock of the event loop
        self._clock = clock or asyncio.get_running_loop().time
        self._max_pause = max_pause
        self._failures = 0
        self._attempting = False
        self._logged_at = 0.0
        self._changed = asyncio.Event()  # pulsed when the gate opens or an attempt has ended
        self._skip_pause = asyncio.Event()

    @property
    def away(self) -> bool:
        return self.away_since is not None

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Waits until the worker may begin an export. The context is open while the export runs."""
        attempting = await self._admit()
        try:
            yield
        finally:
            if attempting and self._attempting:
                self._end_attempt()

    async def _admit(self) -> bool:
        """Waits at the closed gate. Returns whether this worker makes the one attempt while the source is away."""
        while self.away:
            if not self._attempting:
                self._attempting = True
                try:
                    await self._pause()
                except BaseException:
                    self._end_attempt()
                    raise
                return True
            await self._changed.wait()
        return False

    def went_away(self, reason: str) -> None:
        """Closes the gate: a connection was refused, or did not answer."""
        now = self._clock()
        if self.away_since is None:
            self.away_since = now
            self._failures = 0
            self._logged_at = now - LOG_INTERVAL
        self._failures += 1
        self._skip_pause.clear()
        if now - self._logged_at >= LOG_INTERVAL:
            self._logged_at = now
            log.warning("SOURCE_DATABASE_URL: exports wait for the database: %s", reason)
        self._end_attempt()

    def answered(self) -> None:
        """Opens the gate: the source took a connection."""
        if self.away_since is not None:
            log.info("SOURCE_DATABASE_URL: the database answers again after %.0f s", self._clock() - self.away_since)
            self.away_since = None
        self._end_attempt()

    def released(self) -> None:
        """Ends the current pause: a run that had a connection has ended."""
        self._skip_pause.set()

    def _end_attempt(self) -> None:
        self._attempting = False
        self._changed.set()
        self._changed.clear()

    async def _pause(self) -> None:
        """Waits before the next attempt. Half of the time is random, so that servers do not try at the same moments."""
        maximum = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), self._max_pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(maximum * random.uniform(0.5, 1)):  # noqa: S311 - not a secret
                await self._skip_pause.wait()
        self._skip_pause.clear()
