"""One export from start to end: cursor → spool → seal or fail.

The order at the end is the rule of the house: all bytes on disk, then the row, then the followers are told. Whoever has
the last byte, or sees the connection break, finds the same verdict in the status.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from streamer.errors import ExportFailure
from streamer.jobs.live import LiveExport
from streamer.jobs.store import Store
from streamer.model import ExportSpec
from streamer.source.rows import Source

log = logging.getLogger(__name__)

REPORT_INTERVAL = 0.5  # seconds between two writes of the progress


class Runner:
    def __init__(self, store: Store, source: Source) -> None:
        self._store = store
        self._source = source

    async def run(self, live: LiveExport, spec: ExportSpec) -> None:
        """Runs a claimed export. Only cancellation is raised; whoever cancels has settled the row."""
        try:
            await self._produce(live, spec)
        except ExportFailure as failure:
            log.warning("export %s failed: %s", live.id, failure, exc_info=failure.__cause__)
            await self._fail(live, str(failure))
        except Exception:
            log.exception("export %s failed", live.id)
            await self._fail(live, "an internal error, which the server's log describes")
        finally:
            if not live.spool.sealed:
                live.spool.fail("the export was stopped")
                await live.spool.discard()

    async def _produce(self, live: LiveExport, spec: ExportSpec) -> None:
        live.spool.open()
        async with self._source.open(spec) as rows:
            live.begin(rows.snapshot_at, lambda: rows.expected)
            async with self._reporting(live, rows.snapshot_at):
                total = await rows.drain(live.spool.append)
        sealed = await live.spool.finish()
        if sealed.rows != total:
            raise ExportFailure(f"{sealed.rows} records were written for {total} rows")
        if await self._store.complete(live.id, sealed, live.rows_per_second()) is None:
            raise ExportFailure("the export was ended by somebody else")
        live.spool.seal()
        log.info("export %s completed: %d rows, %d bytes", live.id, sealed.rows, sealed.length)

    async def _fail(self, live: LiveExport, reason: str) -> None:
        """The row first: a client whose download breaks finds the reason in the status."""
        try:
            await self._store.fail(live.id, reason)
        except Exception:
            log.exception("export %s: its failure could not be written; it is settled when its lease runs out", live.id)
        live.spool.fail(reason)

    @asynccontextmanager
    async def _reporting(self, live: LiveExport, snapshot_at: datetime) -> AsyncIterator[None]:
        reporter = asyncio.create_task(self._report(live, snapshot_at), name=f"progress of {live.id}")
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.wait({reporter})

    async def _report(self, live: LiveExport, snapshot_at: datetime) -> None:
        while True:
            try:
                await self._store.note_progress(live.id, snapshot_at, live.progress())
            except Exception:
                log.exception("export %s: its progress could not be written", live.id)
            await asyncio.sleep(REPORT_INTERVAL)
