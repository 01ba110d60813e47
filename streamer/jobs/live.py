"""An unfinished export in this process: its spool, its task, and who follows it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from streamer.model import Progress
from streamer.spool.spool import Spool

ALMOST = 99.9  # per cent: 100 is said by the row, when the export is completed


class LiveExport:
    """From the moment it is queued to the moment its last byte or its failure is told."""

    def __init__(self, export_id: UUID, spool: Spool) -> None:
        self.id = export_id
        self.spool = spool
        self.snapshot_at: datetime | None = None
        self._task: asyncio.Task[None] | None = None
        self._expected: Callable[[], int] = int
        self._started = 0.0
        self._percentage = 0.0
        self._followers = 0
        self._abandon: Callable[[], asyncio.TimerHandle] | None = None
        self._abandonment: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Queued, and not begun."""
        return self._task is None

    def begin(self, snapshot_at: datetime, expected: Callable[[], int]) -> None:
        """The query is open: time counts from here. `expected` tells the rows in all, better and better."""
        self.snapshot_at = snapshot_at
        self._expected = expected
        self._started = asyncio.get_running_loop().time()

    def progress(self) -> Progress:
        """Exact rows and bytes of what can be read now; the total is an estimate, never below what is there."""
        rows = self.spool.rows
        total = max(self._expected(), rows) if self.snapshot_at else None
        if total:
            self._percentage = max(self._percentage, min(ALMOST, round(100 * rows / total, 1)))
        return Progress(
            total_rows=total,
            processed_rows=rows,
            bytes=self.spool.frontier,
            percentage=self._percentage,
            rows_per_second=self.rows_per_second(),
        )

    def rows_per_second(self) -> int:
        elapsed = asyncio.get_running_loop().time() - self._started
        return round(self.spool.rows / elapsed) if self.snapshot_at and elapsed > 0 else 0

    async def run(self, task: "asyncio.Task[None]") -> None:
        """Waits for the run to end, however it ends."""
        self._task = task
        await self.finished()

    async def finished(self) -> None:
        """Returns when the run has ended, or if it never began."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self, reason: str) -> None:
        """Breaks the followers, ends the run, and returns when nothing of it is left."""
        self.spool.fail(reason)
        self._stay()
        if self._task is not None:
            self._task.cancel()
        await self.finished()

    def leave_if_abandoned(self, seconds: float, cancel: Callable[[], object]) -> None:
        """Calls `cancel` once nobody has followed for `seconds`."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if not self.spool.ended:
                cancel()

        self._abandon = lambda: loop.call_later(seconds, leave)
        self._abandonment = self._abandon()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While somebody follows, the export is not abandoned."""
        self._followers += 1
        self._stay()
        try:
            yield
        finally:
            self._followers -= 1
            if self._abandon and not self._followers and not self.spool.ended:
                self._abandonment = self._abandon()

    def _stay(self) -> None:
        if self._abandonment is not None:
            self._abandonment.cancel()
            self._abandonment = None
