"""Workers claim queued exports, oldest first, and run them.

Each worker runs one export at a time. Before each claim it waits for a permit; a permit is released for every row that
is inserted or queued again, so a worker that becomes free claims the next row at once. A cancelled row leaves a permit
that claims nothing, which is harmless.
"""

import asyncio
import logging

import tenacity

from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.recovery import Recovery
from streamer.jobs.registry import ActiveExports
from streamer.jobs.runner import Runner
from streamer.jobs.store import Store
from streamer.jobs.tasks import Tasks
from streamer.model import Export, ExportSpec
from streamer.postgres.pool import BACKOFF
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

UNREADABLE = "this version cannot read what the export asks for; it is left to a server that can"


class Workers:
    def __init__(
        self,
        store: Store,
        directory: SpoolDirectory,
        actives: ActiveExports,
        *,
        runner: Runner,
        completed: CompletedCache,
        gate: SourceGate,
        recovery: Recovery,
        tasks: Tasks,
        permits: asyncio.Semaphore,
    ) -> None:
        self._store = store
        self._directory = directory
        self._actives = actives
        self._runner = runner
        self._completed = completed
        self._gate = gate
        self._recovery = recovery
        self._tasks = tasks
        self._permits = permits
        self._claiming = asyncio.Lock()

    def start(self, number: int) -> "list[asyncio.Task[None]]":
        return [self._tasks.spawn(self._work(), f"worker {index}") for index in range(number)]

    async def _work(self) -> None:
        while not self._actives.stopping:
            await self._permits.acquire()
            async with self._gate.passage():
                await self._run_next()

    async def _run_next(self) -> None:
        """Claims and runs the oldest queued export, if there is one."""
        export = await self._claim()
        active = self._actives.get(export.id) if export else None
        if export is None or active is None or active.spool.ended:  # cancelled since it was claimed
            return
        active.attempts, active.epoch = export.attempts, export.epoch
        if export.spec is None:  # the row was changed by SQL since it was queued here
            await self._recovery.release_or_fail(active, UNREADABLE)
            self._actives.pop(active.id)
            return
        await self._run(active, export.spec)

    async def _run(self, active: ActiveExport, spec: ExportSpec) -> None:
        run = self._tasks.spawn(self._runner.run(active, spec), f"export {active.id}")
        delay = await active.run(run)
        if delay is not None:
            asyncio.get_running_loop().call_later(delay.total_seconds(), self._permits.release)
            return
        if active.spool.sealed:
            self._completed.mark_verified(active.id)
        self._actives.pop(active.id)

    async def _claim(self) -> Export | None:
        """Retries while the database does not answer, because the oldest row must be claimed first."""
        async for attempt in tenacity.AsyncRetrying(
            wait=BACKOFF,
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        ):
            with attempt:
                async with self._claiming:  # one claim at a time, so that the ids are those that wait now
                    return await self._store.claim(self._actives.waiting, self._directory.id)
        raise AssertionError("tenacity retries for ever")
