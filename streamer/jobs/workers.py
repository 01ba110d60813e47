"""Workers run exports: new ones that begin at once, and those that they claim from the queue.

Each worker runs one export at a time. When a run has ended it claims the next export at once, and waits for a wake-up
only if there is none. A worker that has claimed an export wakes another, so that one wake-up is enough for any number
of exports that wait.
"""

import asyncio
import logging
from uuid import UUID

import tenacity

from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.idle_workers import Begun, IdleWorkers
from streamer.jobs.queue import Claim, Queue
from streamer.jobs.registry import ActiveExports
from streamer.jobs.runner import Runner
from streamer.jobs.tasks import Tasks
from streamer.model import Export, ExportSpec
from streamer.postgres.pool import BACKOFF
from streamer.protocol.disposition import ContentDescription

log = logging.getLogger(__name__)

UNREADABLE = "this version cannot read what the export asks for; it is left to a server that can"


class Workers:
    def __init__(
        self,
        queue: Queue,
        actives: ActiveExports,
        *,
        runner: Runner,
        completed: CompletedCache,
        gate: SourceGate,
        tasks: Tasks,
        idle: IdleWorkers,
    ) -> None:
        self._queue = queue
        self._actives = actives
        self._runner = runner
        self._completed = completed
        self._gate = gate
        self._tasks = tasks
        self._idle = idle
        self._claiming = asyncio.Lock()

    def start(self, number: int) -> "list[asyncio.Task[None]]":
        return [self._tasks.spawn(self._work(), f"worker {index}") for index in range(number)]

    async def _work(self) -> None:
        while not self._actives.stopping:
            begun = await self._idle.next()
            while await self._run_next(begun):
                begun = None

    async def _run_next(self, begun: Begun | None) -> bool:
        """Runs an export that has begun here, or the next one of the queue. Returns False if there is none."""
        async with self._gate.passage():
            if begun is None and not self._actives.stopping:
                begun = await self._claim_next()
            if begun is not None:
                await self._run(*begun)
        return begun is not None

    async def _run(self, active: ActiveExport, spec: ExportSpec) -> None:
        run = self._tasks.spawn(self._runner.run(active, spec), f"export {active.id}")
        delay = await active.run(run)
        if delay is not None:
            asyncio.get_running_loop().call_later(delay.total_seconds(), self._idle.wake)
            return
        if active.spool.sealed:
            self._completed.mark_verified(active.id)
        self._actives.pop(active.id)

    async def _claim_next(self) -> Begun | None:
        async with self._claiming:  # one claim at a time, so that the ids are those that run now
            claim = await self._claim()
            for export_id in claim.unreadable:
                self._drop_unreadable(export_id)
            if claim.export is None:
                return None
            self._idle.wake()  # there may be more
            return self._begun(claim.export)

    def _begun(self, export: Export) -> Begun | None:
        """Returns a claimed export, with the followers that it has here; None if it was cancelled meanwhile."""
        active = self._actives.get(export.id)
        if active is None:
            active = self._actives.register(export.id, export.principal)
            active.content = ContentDescription.of(export.spec, export.created_at)
        if active.spool.ended:
            return None
        assert export.spec is not None  # only requests that can be read are claimed
        active.begin_run(export.epoch, export.attempts)
        return active, export.spec

    def _drop_unreadable(self, export_id: UUID) -> None:
        """Breaks the followers of a request whose row was changed by SQL since it was accepted here."""
        if active := self._actives.pop(export_id):
            active.abort(UNREADABLE)

    async def _claim(self) -> Claim:
        """Retries while the database does not answer."""
        async for attempt in tenacity.AsyncRetrying(
            wait=BACKOFF,
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        ):
            with attempt:
                return await self._queue.claim(self._actives.running)
        raise AssertionError("tenacity retries for ever")
