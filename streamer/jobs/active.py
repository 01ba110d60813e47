"""An unfinished export in this process: its spool, its task, and who follows it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from streamer.errors import ExportFailure, Unavailable
from streamer.model import Progress
from streamer.protocol.disposition import ContentDescription
from streamer.spool.spool import Spool

MAX_UNFINISHED = 99.9  # per cent: 100 is said by the row, when the export is completed


class ActiveExport:
    """From the moment it is queued to the moment its last byte or its failure is told."""

    def __init__(
        self,
        export_id: UUID,
        spool: Spool,
        *,
        note_served: Callable[[], Coroutine[Any, Any, object]],
        source_away: Callable[[], bool] = lambda: False,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.id = export_id
        self.spool = spool
        self.content: ContentDescription | None = None  # once there is a row
        self._note_served = note_served
        self._source_away = source_away
        self._reading = reading
        self.waits = 0  # runs in a row that got no snapshot
        self._created = asyncio.get_running_loop().time()
        self._first_wait: float | None = None  # when the first of them ended
        self._begun = asyncio.Event()
        self._serving: asyncio.Task[object] | None = None
        self.attempts = 0  # runs begun, this one included
        self.snapshot_at: datetime | None = None
        self._task: asyncio.Task[timedelta | None] | None = None
        self._expected: Callable[[], int] = int
        self._prologue: bytes | None = None  # once a query has run
        self._started = 0.0
        self.percentage = 0.0  # the highest that was shown
        self._followers = 0
        self._abandon: Callable[[], asyncio.TimerHandle] | None = None
        self._abandonment: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Queued, and not begun."""
        return self._task is None

    def begin(self, snapshot_at: datetime, prologue: bytes, expected: Callable[[], int]) -> None:
        """The query is open: time counts from here. `expected` tells the rows in all, better and better.

        Raises ExportFailure if `prologue`, what stands before the rows, is not that of the run before.
        """
        self.snapshot_at = snapshot_at
        self.waits = 0
        self._first_wait = None
        self._expected = expected
        self._started = asyncio.get_running_loop().time()
        if self._prologue not in {None, prologue}:
            raise ExportFailure(
                "what stands before its rows has changed, and may have been downloaded; start a new one"
            )
        self._prologue = prologue
        self._begun.set()

    @property
    def waiting_for(self) -> str | None:
        """`source` if that is away, locked or being changed; `place` in the queue; None once there is a snapshot."""
        if self._begun.is_set():
            return None
        if self.waits or self._source_away():
            return "source"
        return "place" if self.waiting else None

    async def begun(self) -> None:
        """Returns when a snapshot has been taken, or the export has ended."""
        begun, ended = asyncio.ensure_future(self._begun.wait()), asyncio.ensure_future(self.spool.end())
        try:
            await asyncio.wait({begun, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
            ended.cancel()

    async def early(self) -> bytes:
        """What stands before the rows, as soon as the query runs; nothing if a row is there by then, or the end.

        It may leave before `serve`, and the export is run again all the same: every run begins with the same bytes.
        """
        await self.begun()
        return b"" if self.spool.frontier or self.spool.ended else self._prologue or b""

    def progress(self) -> Progress:
        """Exact rows and bytes of what can be read now; the total is an estimate, never below what is there."""
        rows = self.spool.rows
        total = max(self._expected(), rows) if self.snapshot_at else 0
        if total:
            self.percentage = max(self.percentage, min(MAX_UNFINISHED, round(100 * rows / total, 1)))
        return Progress(
            total_rows=total,
            processed_rows=rows,
            bytes=self.spool.frontier,
            percentage=self.percentage,
            rows_per_second=self.rows_per_second(),
        )

    def rows_per_second(self) -> int:
        elapsed = asyncio.get_running_loop().time() - self._started
        return round(self.spool.rows / elapsed) if self.snapshot_at and elapsed > 0 else 0

    @property
    def served(self) -> bool:
        """A byte of a row has left, or is about to: this export is not run again."""
        return self._serving is not None

    async def ensure_served(self) -> None:
        """To be awaited before a byte of it leaves: returns when the table has been told. Raises Unavailable."""
        if not await self.try_mark_served():
            raise Unavailable("the export is not run by this server at the moment")

    async def try_mark_served(self) -> bool:
        """Tells the table that a byte is about to leave; False if the export has ended, or is another server's.

        Only a table that has said yes is not asked again. Raises Unavailable.
        """
        if self._serving is None:
            self._serving = asyncio.create_task(self._note_served(), name=f"first byte of {self.id}")
        asked = self._serving
        try:
            ours = bool(await asyncio.shield(asked))
        except Exception:
            self._forget(asked)
            raise
        if not ours:
            self._forget(asked)
        return ours

    def _forget(self, asked: "asyncio.Task[object]") -> None:
        if self._serving is asked:
            self._serving = None

    def reset(self) -> None:
        """The run has ended, and another one will begin."""
        self._task = None
        self.snapshot_at = None
        self._begun.clear()

    def wait_for_source(self) -> None:
        """The run got no snapshot, and another one will begin."""
        self.reset()
        self.waits += 1
        if self._first_wait is None:
            self._first_wait = asyncio.get_running_loop().time()

    def waited(self, away_since: float | None) -> float:
        """Seconds without a snapshot, since the first run that got none or since the source went away.

        `away_since` is on the clock of the event loop, None if the source is not away. The time in the queue before
        that does not count.
        """
        now = asyncio.get_running_loop().time()
        since = now if self._first_wait is None else self._first_wait
        return now - (since if away_since is None else min(since, max(away_since, self._created)))

    async def run(self, task: "asyncio.Task[timedelta | None]") -> timedelta | None:
        """Waits for the run to end, however it ends; gives the time after which there is to be another one."""
        self._task = task
        await self.finished()
        return None if task.cancelled() or task.exception() else task.result()

    async def finished(self) -> None:
        """Returns when the run has ended, or if it never began."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self, reason: str, *, ended: bool = True) -> None:
        """Breaks the followers, ends the run, and returns when nothing of it is left.

        Unless the row has `ended`, or waits for another run, it decides later about a file that is whole.
        """
        if ended:
            self.spool.kept = False
        self.abort(reason)
        await self.finished()

    def abort(self, reason: str) -> None:
        """Breaks the followers and ends the run, which may take a moment.

        A run that is ending already, as its next report saw it cancelled, is not disturbed while it tidies up.
        """
        self.spool.fail(reason)
        self._keep()
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    def cancel_if_abandoned(self, seconds: float, cancel: Callable[[], object]) -> None:
        """Calls `cancel` once nobody has followed for `seconds`."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if not self.spool.ended:
                cancel()

        self._abandon = lambda: loop.call_later(seconds, leave)
        self._abandonment = self._abandon()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While somebody follows, the export is not abandoned, and its file is not removed when it is completed."""
        self._followers += 1
        self._keep()
        try:
            with self._reading():
                yield
        finally:
            self._followers -= 1
            if self._abandon and not self._followers and not self.spool.ended:
                self._abandonment = self._abandon()

    def _keep(self) -> None:
        if self._abandonment is not None:
            self._abandonment.cancel()
            self._abandonment = None
