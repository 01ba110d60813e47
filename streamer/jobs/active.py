"""An unfinished export in this process: its spool, the task that runs it, and its followers."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from streamer.coding import Coding
from streamer.errors import ExportFailure, Unavailable
from streamer.jobs.abandonment import Abandonment
from streamer.jobs.progress import ProgressMeter
from streamer.jobs.snapshot_wait import SnapshotWait
from streamer.protocol.disposition import ContentDescription
from streamer.spool.spool import Spool

ENDED_ELSEWHERE = "the export was ended by another server"
RUN_ELSEWHERE = "the export is run by another server"


class ActiveExport:
    """Exists from before its row is inserted until its followers know of its last byte or its failure.

    `note_served` writes to the table that a byte is about to be sent, and returns whether that is still allowed.
    `source_away` returns whether the source takes no connections. `reading` keeps the file from being removed.
    """

    coding = Coding.IDENTITY
    row: None = None  # of a compressed representation

    def __init__(
        self,
        export_id: UUID,
        principal: str,
        spool: Spool,
        *,
        note_served: Callable[[], Coroutine[Any, Any, bool]],
        source_away: Callable[[], bool] = lambda: False,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.id = export_id
        self.principal = principal  # its name
        self.spool = spool
        self.meter = ProgressMeter(spool)
        self.abandonment = Abandonment(spool)
        self.snapshot_wait = SnapshotWait()
        self.content: ContentDescription | None = None  # None until the row is inserted
        self.epoch = 0  # of the claim of this process, 0 while the export waits
        self.attempts = 0  # runs that have begun, including the current one
        self.snapshot_at: datetime | None = None
        self._ending: str | None = None  # the reason for which this process is changing the row
        self._note_served = note_served
        self._source_away = source_away
        self._reading = reading
        self._begun = asyncio.Event()
        self._serving: asyncio.Task[bool] | None = None
        self._task: asyncio.Task[timedelta | None] | None = None
        self._prologue: bytes | None = None  # None until a query has run

    @property
    def waiting(self) -> bool:
        """Whether the export is queued: it belongs to no server."""
        return self._task is None and not self.epoch

    def begin_run(self, epoch: int, attempts: int) -> None:
        """Notes that this process has claimed the export."""
        self.epoch, self.attempts = epoch, attempts

    def begin(self, snapshot_at: datetime, prologue: bytes, expected: Callable[[], int]) -> None:
        """Notes that the query is open. `prologue` are the bytes before the rows; `expected` estimates all rows.

        Raises ExportFailure if the prologue differs from that of an earlier run.
        """
        self.snapshot_at = snapshot_at
        self.snapshot_wait.reset()
        self.meter.start(expected)
        if self._prologue not in {None, prologue}:
            raise ExportFailure(
                "what stands before its rows has changed, and may have been downloaded; start a new one"
            )
        self._prologue = prologue
        self._begun.set()

    @property
    def has_begun(self) -> bool:
        """Whether a snapshot has been taken."""
        return self._begun.is_set()

    @property
    def waiting_for(self) -> str | None:
        """`source` if it is away, locked or being changed; `place` in the queue; None once there is a snapshot."""
        if self.has_begun:
            return None
        if self.snapshot_wait.runs or self._source_away():
            return "source"
        return "place" if self.waiting else None

    async def begun(self) -> None:
        """Returns when a snapshot has been taken, or the export has ended."""
        await self.spool.end_or(self._begun)

    async def early(self) -> bytes:
        """Returns the bytes before the rows as soon as the query runs; b"" if a row can be read, or the export ended.

        They may be sent before `ensure_served`: a later run begins with the same bytes.
        """
        await self.begun()
        return b"" if self.spool.frontier or self.spool.ended else self._prologue or b""

    @property
    def served(self) -> bool:
        """Whether a byte of a row was sent, or is about to be: this export is not run again."""
        return self._serving is not None

    async def ensure_served(self) -> None:
        """Must be awaited before the first byte is sent. Raises Unavailable if this server may not run the export."""
        if not await self.try_mark_served():
            raise Unavailable("the export is not run by this server at the moment")

    async def try_mark_served(self) -> bool:
        """Notes in the table that a byte is about to be sent. Returns False if this server may not run the export.

        All followers share one note. After a refusal or an error the next follower tries again. Raises Unavailable.
        """
        if self._serving is None:
            self._serving = asyncio.create_task(self._note_served(), name=f"first byte of {self.id}")
        note = self._serving
        try:
            allowed = await asyncio.shield(note)
        except Exception:
            self._forget(note)
            raise
        if not allowed:
            self._forget(note)
        return allowed

    def _forget(self, note: "asyncio.Task[bool]") -> None:
        if self._serving is note:
            self._serving = None

    def reset(self) -> None:
        """Makes the export wait for another run, by any server."""
        self._task = None
        self.epoch = 0
        self.snapshot_at = None
        self.meter.reset()
        self._begun.clear()

    def wait_for_source(self) -> None:
        """Makes the export wait for another run, because this one got no snapshot."""
        self.reset()
        self.snapshot_wait.add_run()

    async def run(self, task: "asyncio.Task[timedelta | None]") -> timedelta | None:
        """Waits until the run has ended in any way. Returns the delay before the next run, None if there is none."""
        self._task = task
        await self.finished()
        return None if task.cancelled() or task.exception() else task.result()

    async def finished(self) -> None:
        """Returns when the run has ended, at once if none has begun."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self, reason: str, *, ended: bool = True) -> None:
        """Breaks the followers, cancels the run, and returns when it has ended.

        `ended` means that the row has a final state, or waits for another run; otherwise the row decides later about a
        file that is whole.
        """
        if ended:
            self.spool.kept = False
        self.abort(reason)
        await self.finished()

    def abort(self, reason: str) -> None:
        """Breaks the followers and cancels the run, which may take a moment to end.

        A run that is being cancelled already is not cancelled again, so that it can clean up.
        """
        self.spool.fail(reason)
        self.abandonment.stop_timer()
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    @contextmanager
    def ending(self, reason: str) -> Iterator[None]:
        """Must be open while this process changes the row to end the run.

        The run may find the change before the caller gets the database's answer, and must break its followers with the
        caller's `reason`.
        """
        before, self._ending = self._ending, reason
        try:
            yield
        finally:
            self._ending = before

    @property
    def why_ended(self) -> str:
        """The reason if the row says that the run has ended."""
        return self._ending or ENDED_ELSEWHERE

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keeps the export from being abandoned, and its file from being removed, while the context is open."""
        with self.abandonment.followed(), self._reading():
            yield
