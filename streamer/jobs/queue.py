"""Who may start when: admission, claim, concurrency, and what becomes of exports whose server died.

The table is the queue. What this process holds beside it is one LiveExport for each of its own unfinished rows, so
that followers have something to follow from the moment the row exists. `concurrency` workers each wait for a permit;
a permit is given for every row inserted, so a place that becomes free takes the next row at once. A cancelled row
leaves a permit behind that claims nothing, which is harmless.

Every unfinished row is under a lease that its server renews. A row whose lease has run out belongs to nobody and
fails.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID, uuid4

import tenacity

from streamer.errors import ClientError, NotFound, QueueFull, Unavailable
from streamer.jobs.live import LiveExport
from streamer.jobs.runner import Runner
from streamer.jobs.sealed import SealedExports
from streamer.jobs.store import RENEWAL, Store
from streamer.model import Export, ExportSpec, State
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

CANCELLED = "the export was cancelled"
STOPPED = "the server was stopped before the export was finished; start a new one"
ABANDONED = "the server that ran this export died before it was finished; start a new one"
RETRY_AFTER = 5  # seconds


class ExportQueue:
    def __init__(
        self,
        store: Store,
        runner: Runner,
        directory: SpoolDirectory,
        sealed: SealedExports,
        *,
        concurrency: int,
        capacity: int,
    ) -> None:
        self._store = store
        self._runner = runner
        self._directory = directory
        self._sealed = sealed
        self._concurrency = concurrency
        self._capacity = capacity
        self._live: dict[UUID, LiveExport] = {}
        self._permits = asyncio.Semaphore(0)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._services: list[asyncio.Task[Any]] = []
        self._stopping = False

    async def start(self) -> None:
        """Settles what a dead server left, removes files that belong to no export, and begins to work."""
        await self._store.settle_abandoned(ABANDONED)
        await self._sweep()
        self._services = [self._spawn(self._work(), f"worker {number}") for number in range(self._concurrency)]
        self._services.append(self._spawn(self._keep_leases(), "leases"))

    async def stop(self) -> None:
        """Takes no more exports, and fails those that are not finished."""
        self._stopping = True
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        await asyncio.gather(*map(self._abort, list(self._live.values())))
        self._live.clear()

    async def submit(self, spec: ExportSpec, *, abandon_after: float | None = None) -> LiveExport:
        """Queues an export, whole even if the caller is cancelled meanwhile.

        With `abandon_after` (seconds) it is cancelled once nobody has followed it for so long. Raises QueueFull and
        Unavailable.
        """
        if self._stopping:
            raise Unavailable("the server is stopping", retry_after=RETRY_AFTER)
        if sum(live.waiting for live in self._live.values()) >= self._capacity:
            raise QueueFull(f"{self._capacity} exports are waiting already", retry_after=RETRY_AFTER)
        export_id = uuid4()
        live = self._live[export_id] = LiveExport(export_id, self._directory.create(export_id))
        await asyncio.shield(self._spawn(self._insert(live, spec, abandon_after), "submit"))
        return live

    async def get(self, export_id: UUID) -> Export:
        """Raises NotFound. Who is told that an export is completed finds it sealed: the row is written before that."""
        export = await self._store.get(export_id)
        if export is None:
            raise NotFound(f"there is no export {export_id}")
        if export.state is State.COMPLETED and (live := self._live.get(export_id)):
            await live.spool.end()
        return export

    def live(self, export_id: UUID) -> LiveExport | None:
        """The export, if it is unfinished and this process runs it."""
        live = self._live.get(export_id)
        return live if live and not live.spool.ended else None

    async def cancel(self, export_id: UUID) -> Export:
        """Cancels an unfinished export, or removes the file of a finished one. Raises NotFound.

        Whole even if the caller is cancelled meanwhile.
        """
        return await asyncio.shield(self._spawn(self._cancel(export_id), "cancel"))

    async def _cancel(self, export_id: UUID) -> Export:
        cancelled = await self._store.cancel(export_id)
        if cancelled is not None:
            if live := self._live.pop(export_id, None):
                await live.stop(CANCELLED)
            return cancelled
        export = await self.get(export_id)
        self._directory.remove(export_id)
        await self._store.note_removed(export_id)
        self._sealed.forget(export_id)
        return export

    async def _insert(self, live: LiveExport, spec: ExportSpec, abandon_after: float | None) -> None:
        try:
            await self._store.insert(live.id, spec)
        except BaseException:
            del self._live[live.id]
            raise
        if abandon_after is not None:
            live.leave_if_abandoned(abandon_after, lambda: self._spawn(self._cancel(live.id), "abandoned"))
        self._permits.release()

    async def _work(self) -> None:
        while True:
            await self._permits.acquire()
            export = await self._claim()
            live = self._live.get(export.id) if export else None
            if export is None or live is None or live.spool.ended:  # cancelled on the way
                continue
            await live.run(self._spawn(self._runner.run(live, export.spec), f"export {live.id}"))
            self._live.pop(live.id, None)

    async def _claim(self) -> Export | None:
        """A database that does not answer is waited for: the row is there, and its turn has come."""
        async for attempt in tenacity.AsyncRetrying(
            wait=tenacity.wait_exponential(multiplier=0.25, max=5),
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        ):
            with attempt:
                return await self._store.claim()
        raise AssertionError("tenacity retries for ever")

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL.total_seconds())
            try:
                await self._store.renew_leases()
                for export in await self._store.settle_abandoned(ABANDONED):
                    self._directory.remove(export.id)
            except Exception:
                log.exception("the leases could not be renewed")

    async def _sweep(self) -> None:
        found = self._directory.export_ids()
        for export_id in found - await self._store.kept(found):
            log.info("removed the file of export %s, which nobody can ask for", export_id)
            self._directory.remove(export_id)

    async def _abort(self, live: LiveExport) -> None:
        try:
            failed = await self._store.fail(live.id, STOPPED)
            if failed is None and (await self.get(live.id)).state is State.COMPLETED:
                return await live.finished()  # it is about to say so
        except Exception:
            log.exception("export %s: its end could not be written; it is settled when its lease runs out", live.id)
        return await live.stop(STOPPED)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        """Whoever waited for the task has its error; if nobody did, the log has."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ClientError):
            log.error("%s ended badly", task.get_name(), exc_info=error)
