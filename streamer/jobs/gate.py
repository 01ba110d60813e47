"""While the source takes no connection, one export at a time asks whether it does again.

That a source is away (stopped, starting, failing over, out of connections) is a fact about the source, not about the
export that found it. So the export goes back to the queue without an attempt lost, and the gate closes: of the workers
that want to begin an export one goes through after a pause, which grows, and the others wait. The one that goes through
claims the oldest export, so the order of the queue is kept. When a snapshot has been taken, the gate is open again.

A run that ends gives a connection back: then the next attempt is made at once.
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
    def __init__(self, *, max_pause: float = MAX_PAUSE, clock: Callable[[], float] | None = None) -> None:
        self.away_since: float | None = None  # on the clock of the event loop
        self._clock = clock or asyncio.get_running_loop().time
        self._max_pause = max_pause
        self._failures = 0
        self._attempting = False
        self._logged_at = 0.0
        self._changed = asyncio.Event()  # pulsed when the gate opens or an attempt has ended
        self._hurried = asyncio.Event()

    @property
    def away(self) -> bool:
        return self.away_since is not None

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Lets a worker begin an export, at once or in its turn. The context is open while the export runs."""
        attempting = await self._admit()
        try:
            yield
        finally:
            if attempting and self._attempting:
                self._end_attempt()

    async def _admit(self) -> bool:
        """Whether this is the one attempt that is made while the source is away."""
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
        """A connection was refused, or did not answer."""
        now = self._clock()
        if self.away_since is None:
            self.away_since = now
            self._failures = 0
            self._logged_at = now - LOG_INTERVAL
        self._failures += 1
        self._hurried.clear()
        if now - self._logged_at >= LOG_INTERVAL:
            self._logged_at = now
            log.warning("SOURCE_DATABASE_URL: exports wait for the database: %s", reason)
        self._end_attempt()

    def answered(self) -> None:
        """The source took a connection."""
        if self.away_since is not None:
            log.info("SOURCE_DATABASE_URL: the database answers again after %.0f s", self._clock() - self.away_since)
            self.away_since = None
        self._end_attempt()

    def released(self) -> None:
        """A run that had a connection has ended."""
        self._hurried.set()

    def _end_attempt(self) -> None:
        self._attempting = False
        self._changed.set()
        self._changed.clear()

    async def _pause(self) -> None:
        """Half of it is random, so that several servers do not ask at the same moments."""
        longest = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), self._max_pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(longest * random.uniform(0.5, 1)):  # noqa: S311 - not a secret
                await self._hurried.wait()
        self._hurried.clear()
