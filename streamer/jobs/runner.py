"""One export from start to end: cursor → spool → seal or fail.

The order at the end is fixed: all bytes on disk, then the row, then the followers. A client that has received the last
byte, or whose connection was broken, finds the same result in the status.

Once all bytes are on disk, the row alone decides about the file. The answer of the database may be late or lost, so a
run that ends without it leaves the file in place; the sweep removes it if the row says so. A whole export waits for a
table that is locked or read-only until another server has taken the row over, or this server stops.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import tenacity

from streamer.errors import ExportFailure, NotFound, SourceAway, SourceWait, TransientFailure, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.jobs.gate import SourceGate
from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, Export, ExportSpec, State
from streamer.postgres.failures import with_causes
from streamer.postgres.pool import BACKOFF, log_waiting
from streamer.source.cursors.cursor import Sink
from streamer.source.rows import Rows
from streamer.source.source import Source
from streamer.spool.spool import Sealed

log = logging.getLogger(__name__)

FIRST_SOURCE_PAUSE = 0.1  # seconds before the next run if a relation is locked; doubles with each run
MAX_SOURCE_PAUSE = 5.0  # seconds


class Runner:
    """An export that gets no snapshot for `source_wait` seconds fails, and so does one larger than `max_bytes`.

    `max_bytes` is None without a limit.
    """

    def __init__(
        self,
        store: Store,
        source: Source,
        gate: SourceGate,
        *,
        source_wait: float,
        times: JobTimes,
        max_bytes: int | None = None,
    ) -> None:
        self._store = store
        self._source = source
        self._gate = gate
        self._source_wait = source_wait
        self._times = times
        self._max_bytes = max_bytes

    async def run(self, active: ActiveExport, spec: ExportSpec) -> timedelta | None:
        """Runs a claimed export. Returns the delay before the next run, None if there is none.

        Raises only CancelledError; the code that cancels the run settles the row.
        """
        delay = None
        try:
            await self._produce(active, spec)
        except SourceWait as failure:
            delay = await self._wait_for_source(active, failure)
        except TransientFailure as failure:
            delay = await self._run_again(active, failure)
            if delay is None:
                await self._fail(active, failure)
        except ExportFailure as failure:
            await self._fail(active, failure)
        except Exception as error:
            await self._fail(active, ExportFailure("an internal error, which the server's log describes"), error)
        finally:
            if not active.spool.sealed and delay is None:
                active.spool.fail("the export was stopped")
                await active.spool.discard()
        return delay

    async def _produce(self, active: ActiveExport, spec: ExportSpec) -> None:
        active.spool.open()
        try:
            async with self._source.open(spec) as rows:
                self._gate.answered()
                active.begin(rows.snapshot_at, rows.prologue, lambda: rows.expected)
                async with self._reporting(active, rows.snapshot_at):
                    total = await rows.drain(self._limited(active.spool.append))
        finally:
            if active.snapshot_at is not None:
                self._gate.released()
        sealed = await active.spool.finish()
        if sealed.rows != total:
            raise ExportFailure(f"{sealed.rows} records were written for {total} rows")
        active.spool.kept = True
        if not await self._complete(active, sealed, rows):
            active.spool.kept = False
            raise ExportFailure(active.why_ended)
        active.spool.seal()
        log.info("export %s completed: %d rows, %d bytes", active.id, sealed.rows, sealed.length)

    def _limited(self, sink: Sink) -> Sink:
        """Returns a sink that raises ExportFailure for the first chunk that would make the file too large."""
        if self._max_bytes is None:
            return sink
        limit, taken = self._max_bytes, 0

        async def take(chunk: bytes | bytearray, rows: int) -> None:
            nonlocal taken
            taken += len(chunk)
            if taken > limit:
                raise ExportFailure(f"the file would be larger than EXPORT_MAX_BYTES allows, {limit:,} bytes")
            await sink(chunk, rows)

        return take

    async def _complete(self, active: ActiveExport, sealed: Sealed, rows: Rows) -> bool:
        """Returns False if the export was cancelled, or ended by another server."""
        return await self._written(
            active,
            lambda: self._store.complete(
                *(active.id, active.epoch, sealed, active.meter.rows_per_second()),
                truncated=rows.truncated,
                snapshot_at=rows.snapshot_at,
            ),
            lambda row: row.state is State.COMPLETED and row.sha256 == sealed.sha256,
            retrying=_retrying_completion(active, self._times.lease),
        )

    async def _wait_for_source(self, active: ActiveExport, failure: SourceWait) -> timedelta | None:
        """Returns the export to the queue without counting the attempt, and closes the gate if the source is away.

        Returns the delay before the next run. After `source_wait` seconds the export fails, and None is returned.
        """
        if isinstance(failure, SourceAway):
            self._gate.went_away(with_causes(failure))
        else:
            self._gate.answered()
        waited = active.snapshot_wait.seconds(self._gate.away_since)
        if waited >= self._source_wait:
            failed = SourceWait(f"no snapshot could be taken for {waited:.0f} s: {failure}")
            failed.__cause__ = failure.__cause__
            await self._fail(active, failed)
            return None
        delay = timedelta() if self._gate.away else timedelta(seconds=_pause(active.snapshot_wait.runs))
        change = partial(self._store.wait_for_source, active.id, active.epoch, delay)
        if active.served or not await self._requeued(active, change):
            await self._fail(active, failure)
            return None
        level = logging.DEBUG if active.snapshot_wait.runs else logging.INFO
        log.log(level, "export %s waits for the source: %s", active.id, with_causes(failure))
        active.wait_for_source()
        return delay

    async def _requeued(self, active: ActiveExport, change: Callable[[], Awaitable[bool]]) -> bool:
        """Empties the spool for another run. Returns whether the row allows one."""
        try:
            if not await self._written(
                active,
                change,
                lambda row: row.state is State.PENDING,
                retrying=_retrying_for_lease(active, self._times.lease),
            ):
                return False
            await active.spool.rewind()
        except Exception:
            log.exception("export %s: the table could not be told that it is run again", active.id)
            return False
        return True

    async def _run_again(self, active: ActiveExport, failure: TransientFailure) -> timedelta | None:
        """Requeues the export if no byte was served: only then may its bytes change. Returns the delay, or None."""
        if active.served:
            return None
        delay = self._times.retry_delay * (1 << (active.attempts - 1))
        change = partial(self._store.requeue, active.id, active.epoch, delay, active.meter.percentage)
        if not await self._requeued(active, change):
            return None
        log.warning("export %s is run again in %s: %s", active.id, delay, with_causes(failure))
        active.reset()
        return delay

    async def _written(
        self,
        active: ActiveExport,
        change: Callable[[], Awaitable[bool]],
        as_wanted: Callable[[Export], bool],
        *,
        retrying: tenacity.AsyncRetrying,
    ) -> bool:
        """Executes `change` until the database answers. Returns whether the row is `as_wanted`.

        A statement whose answer was lost may have been executed, so the row is read after a `change` without effect.
        Without retries a whole export would be lost, or one whose source failed together with the table.
        """
        async for attempt in retrying:
            with attempt:
                return await change() or await self._is(active.id, as_wanted)
        raise AssertionError("tenacity either returns an attempt or raises")

    async def _is(self, export_id: UUID, as_wanted: Callable[[Export], bool]) -> bool:
        try:
            return as_wanted(await self._store.get(export_id, EVERYBODY))
        except NotFound:
            return False

    async def _fail(self, active: ActiveExport, failure: ExportFailure, unexpected: Exception | None = None) -> None:
        """Writes the failure to the row, then breaks the followers, whose clients find the reason in the status.

        The log contains the traceback of an `unexpected` error.
        """
        log.warning("export %s failed: %s", active.id, with_causes(failure), exc_info=unexpected)
        try:
            async for attempt in _retrying_for_lease(active, self._times.lease):
                with attempt:
                    if await self._store.fail(active.id, active.epoch, str(failure), active.meter.percentage):
                        active.spool.kept = False
        except Exception:
            log.exception(
                "export %s: its failure could not be recorded; that is done when its lease runs out", active.id
            )
        active.spool.fail(str(failure))

    @asynccontextmanager
    async def _reporting(self, active: ActiveExport, snapshot_at: datetime) -> AsyncIterator[None]:
        reporter = asyncio.create_task(self._report(active, snapshot_at), name=f"progress of {active.id}")
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.wait({reporter})

    async def _report(self, active: ActiveExport, snapshot_at: datetime) -> None:
        while True:
            try:
                if not await self._store.note_progress(active.id, active.epoch, snapshot_at, active.meter.progress()):
                    active.abort(active.why_ended)
            except Unavailable as error:
                log.warning("export %s: its progress could not be recorded: %s", active.id, with_causes(error))
            except Exception:
                log.exception("export %s: its progress could not be recorded", active.id)
            await asyncio.sleep(self._times.report_interval)


def _pause(waits: int) -> float:
    """Returns seconds, with full jitter."""
    return random.uniform(0, min(FIRST_SOURCE_PAUSE * 2 ** min(waits, 10), MAX_SOURCE_PAUSE))  # noqa: S311 - not a secret


def _retrying_for_lease(active: ActiveExport, lease: timedelta) -> tenacity.AsyncRetrying:
    """Retries a statement until the lease may have expired."""
    return _retrying(active, tenacity.stop_after_delay(lease.total_seconds()))


def _retrying_completion(active: ActiveExport, lease: timedelta) -> tenacity.AsyncRetrying:
    """Retries without a limit while the table is unavailable; after other errors until the lease may have expired."""
    expired = tenacity.stop_after_delay(lease.total_seconds())
    return _retrying(active, lambda state: expired(state) and not isinstance(_error_of(state), Unavailable))


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _retrying(active: ActiveExport, stop: Callable[[tenacity.RetryCallState], bool]) -> tenacity.AsyncRetrying:
    return tenacity.AsyncRetrying(
        stop=stop, wait=BACKOFF, before_sleep=log_waiting(log, f"export {active.id}"), reraise=True
    )
