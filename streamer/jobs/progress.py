"""The progress of an export while it runs."""

import asyncio
from collections.abc import Callable

from streamer.model import Progress
from streamer.spool.spool import Spool

MAX_UNFINISHED = 99.9  # per cent; 100 is the value of a completed row


class ProgressMeter:
    """Measures a run by the rows and bytes of its spool that can be read."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._expected: Callable[[], int] | None = None  # None while there is no snapshot
        self._started = 0.0  # on the clock of the event loop
        self.percentage = 0.0  # the highest that was shown, in any run

    def start(self, expected: Callable[[], int]) -> None:
        """Starts the clock. `expected` returns an estimate of all rows, which improves while the query runs."""
        self._expected = expected
        self._started = asyncio.get_running_loop().time()

    def reset(self) -> None:
        """Forgets the run. The percentage stays, because it never falls."""
        self._expected = None

    def progress(self) -> Progress:
        """Returns exact rows and bytes. The total is an estimate, and never below the rows that can be read."""
        rows = self._spool.rows
        total = max(self._expected(), rows) if self._expected else 0
        if total:
            self.percentage = max(self.percentage, min(MAX_UNFINISHED, round(100 * rows / total, 1)))
        return Progress(
            total_rows=total,
            processed_rows=rows,
            bytes=self._spool.frontier,
            percentage=self.percentage,
            rows_per_second=self.rows_per_second(),
        )

    def rows_per_second(self) -> int:
        """Returns the average since the query began; 0 while there is no snapshot."""
        elapsed = asyncio.get_running_loop().time() - self._started
        return round(self._spool.rows / elapsed) if self._expected and elapsed > 0 else 0
