"""One export from start to end: cursor → spool → seal or fail.

The order at the end is the rule of the house: all bytes on disk, then the row, then the followers are told. Whoever has
the last byte, or sees the connection break, finds the same verdict in the status.

Once all bytes are on disk, the row alone decides about the file. Its answer may be late or lost, so a run that ends
without it leaves the file where it is; the sweep removes it if the row says so. A whole export waits for a table that
is locked or read-only until the row is another server's, or this server stops.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import tenacity

from streamer.errors import ExportFailure, SourceAway, SourceWait, TransientFailure, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.jobs.gate import SourceGate
from streamer.jobs.store import LEASE, Store
from streamer.model import Export, ExportSpec, State
from streamer.postgres.failures import with_causes
from streamer.postgres.pool import BACKOFF, log_waiting
from streamer.source.cursors.cursor import Sink
from streamer.source.rows import Rows
from streamer.source.source import Source
from streamer.spool.spool import Sealed

log = logging.getLogger(__name__)

FIRST_WAIT = 0.1  # seconds before another snapshot where what is read is locked; twice as long before the next
MAX_WAIT = 5.0  # seconds
FIRST_DELAY = timedelta(seconds=1)  # before the second attempt, twice as long before the third
ENDED_ELSEWHERE = "the export was ended by somebody else"
REPORT_INTERVAL = 0.5  # seconds between two writes of the progress


class Runner:
    """`source_wait` is how long an export waits for a snapshot, in seconds, before it fails.

    `max_bytes` is how large its file may be, None without a limit.
    """

    def __init__(
        self, store: Store, source: Source, gate: SourceGate, *, source_wait: float, max_bytes: int | None = None
    ) -> None:
        self._store = store
        self._source = source
        self._gate = gate
        self._source_wait = source_wait
        self._max_bytes = max_bytes

    async def run(self, live: ActiveExport, spec: ExportSpec) -> timedelta | None:
        """Runs a claimed export. If it is to be run again, returns after what time.

        Only cancellation is raised; whoever cancels has settled the row.
        """
        delay = None
        try:
            await self._produce(live, spec)
        except SourceWait as failure:
            delay = await self._wait(live, failure)
        except TransientFailure as failure:
            delay = await self._again(live, failure)
            if delay is None:
                await self._fail(live, failure)
        except ExportFailure as failure:
            await self._fail(live, failure)
        except Exception as error:
            await self._fail(live, ExportFailure("an internal error, which the server's log describes"), error)
        finally:
            if not live.spool.sealed and delay is None:
                live.spool.fail("the export was stopped")
                await live.spool.discard()
        return delay

    async def _produce(self, live: ActiveExport, spec: ExportSpec) -> None:
        live.spool.open()
        try:
            async with self._source.open(spec) as rows:
                self._gate.answered()
                live.begin(rows.snapshot_at, rows.prologue, lambda: rows.expected)
                async with self._reporting(live, rows.snapshot_at):
                    total = await rows.drain(self._limited(live.spool.append))
        finally:
            if live.snapshot_at is not None:
                self._gate.released()
        sealed = await live.spool.finish()
        if sealed.rows != total:
            raise ExportFailure(f"{sealed.rows} records were written for {total} rows")
        live.spool.kept = True
        if not await self._complete(live, sealed, rows):
            live.spool.kept = False
            raise ExportFailure(ENDED_ELSEWHERE)
        live.spool.seal()
        log.info("export %s completed: %d rows, %d bytes", live.id, sealed.rows, sealed.length)

    def _limited(self, sink: Sink) -> Sink:
        """The sink, which refuses the first page that would make the file too large, and so never has a part of it."""
        if self._max_bytes is None:
            return sink
        most, taken = self._max_bytes, 0

        async def take(page: bytes | bytearray, rows: int) -> None:
            nonlocal taken
            taken += len(page)
            if taken > most:
                raise ExportFailure(f"the file would be larger than EXPORT_MAX_BYTES allows, {most:,} bytes")
            await sink(page, rows)

        return take

    async def _complete(self, live: ActiveExport, sealed: Sealed, rows: Rows) -> bool:
        """False if somebody else has ended the export."""
        return await self._written(
            live,
            lambda: self._store.complete(
                *(live.id, sealed, live.rows_per_second()), truncated=rows.truncated, snapshot_at=rows.snapshot_at
            ),
            lambda row: row.state is State.COMPLETED and row.sha256 == sealed.sha256,
            retrying=_persistently(live),
        )

    async def _wait(self, live: ActiveExport, failure: SourceWait) -> timedelta | None:
        """Nothing was read: the export goes back to the queue, and the others with it if the source is away.

        After `source_wait` it fails. None if it has ended.
        """
        if isinstance(failure, SourceAway):
            self._gate.went_away(with_causes(failure))
        else:
            self._gate.answered()
        waited = live.waited(self._gate.away_since)
        if waited >= self._source_wait:
            over = SourceWait(f"no snapshot could be taken for {waited:.0f} s: {failure}")
            over.__cause__ = failure.__cause__
            await self._fail(live, over)
            return None
        delay = timedelta() if self._gate.away else timedelta(seconds=_pause(live.waits))
        if live.served or not await self._requeued(live, lambda: self._store.wait_for_source(live.id, delay)):
            await self._fail(live, failure)
            return None
        why = with_causes(failure)
        log.log(logging.DEBUG if live.waits else logging.INFO, "export %s waits for the source: %s", live.id, why)
        live.wait_for_source()
        return delay

    async def _requeued(self, live: ActiveExport, change: Callable[[], Awaitable[Export | None]]) -> bool:
        """Whether the row says that the export is to be run again, and its spool is empty."""
        try:
            if not await self._written(live, change, lambda row: row.state is State.PENDING, retrying=_patiently(live)):
                return False
            await live.spool.rewind()
        except Exception:
            log.exception("export %s: that it is to be run again could not be written", live.id)
            return False
        return True

    async def _again(self, live: ActiveExport, failure: TransientFailure) -> timedelta | None:
        """Rule: what nobody has a byte of may be run again, under the same id, with other bytes."""
        if live.served:
            return None
        delay = FIRST_DELAY * (1 << (live.attempts - 1))
        if not await self._requeued(live, lambda: self._store.requeue(live.id, delay, live.percentage)):
            return None
        log.warning("export %s is run again in %s: %s", live.id, delay, with_causes(failure))
        live.reset()
        return delay

    async def _written(
        self,
        live: ActiveExport,
        change: Callable[[], Awaitable[Export | None]],
        as_wanted: Callable[[Export], bool],
        *,
        retrying: tenacity.AsyncRetrying,
    ) -> bool:
        """Whether the row is `as_wanted`. A database that does not answer is asked again, and may have heard before.

        There is much to lose: an export that is whole, or one whose source was cut off together with the table.
        """
        async for attempt in retrying:
            with attempt:
                if await change():
                    return True
                found = await self._store.get(live.id)
                return found is not None and as_wanted(found)
        raise AssertionError("tenacity either returns an attempt or raises")

    async def _fail(self, live: ActiveExport, failure: ExportFailure, unexpected: Exception | None = None) -> None:
        """The row first: a client whose download breaks finds the reason in the status.

        The log shows where something `unexpected` happened.
        """
        log.warning("export %s failed: %s", live.id, with_causes(failure), exc_info=unexpected)
        try:
            async for attempt in _patiently(live):
                with attempt:
                    if await self._store.fail(live.id, str(failure), live.percentage):
                        live.spool.kept = False
        except Exception:
            log.exception("export %s: its failure could not be written; it is settled when its lease runs out", live.id)
        live.spool.fail(str(failure))

    @asynccontextmanager
    async def _reporting(self, live: ActiveExport, snapshot_at: datetime) -> AsyncIterator[None]:
        reporter = asyncio.create_task(self._report(live, snapshot_at), name=f"progress of {live.id}")
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.wait({reporter})

    async def _report(self, live: ActiveExport, snapshot_at: datetime) -> None:
        while True:
            try:
                if await self._store.note_progress(live.id, snapshot_at, live.progress()) is None:
                    live.abort(ENDED_ELSEWHERE)
            except Unavailable as error:
                log.warning("export %s: its progress could not be written: %s", live.id, with_causes(error))
            except Exception:
                log.exception("export %s: its progress could not be written", live.id)
            await asyncio.sleep(REPORT_INTERVAL)


def _pause(waits: int) -> float:
    """Seconds, with full jitter."""
    return random.uniform(0, min(FIRST_WAIT * 2 ** min(waits, 10), MAX_WAIT))  # noqa: S311 - not a secret


def _patiently(live: ActiveExport) -> tenacity.AsyncRetrying:
    """A statement to the table is tried again for as long as the lease may last."""
    return _retrying(live, tenacity.stop_after_delay(LEASE.total_seconds()))


def _persistently(live: ActiveExport) -> tenacity.AsyncRetrying:
    """A statement is tried again for as long as the table is not to be had; after other errors as `_patiently`."""
    lease = tenacity.stop_after_delay(LEASE.total_seconds())
    return _retrying(live, lambda state: lease(state) and not isinstance(_error_of(state), Unavailable))


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _retrying(live: ActiveExport, stop: Callable[[tenacity.RetryCallState], bool]) -> tenacity.AsyncRetrying:
    return tenacity.AsyncRetrying(
        stop=stop, wait=BACKOFF, before_sleep=log_waiting(log, f"export {live.id}"), reraise=True
    )
