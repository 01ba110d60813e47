"""Who may start when: admission, claim, concurrency, and what becomes of exports whose server died.

The table is the queue. What this process holds beside it is one LiveExport for each of its own unfinished rows, so
that followers have something to follow from the moment the row exists. `concurrency` workers each wait for a permit;
a permit is given for every row inserted, so a place that becomes free takes the next row at once. A cancelled row
leaves a permit behind that claims nothing, which is harmless.

Every unfinished row has an owner, which renews its lease and holds a lock in the folder of spools. A row whose owner is
dead is settled by one rule: what nobody has a byte of is run again under the same id, at most `ATTEMPTS` times;
anything else fails. The same rule holds for a run that meets a failure that time can heal, and for a server that stops.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import tenacity

from streamer.errors import ClientError, KeyReused, NotFound, QueueFull, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache, unknown_state
from streamer.jobs.gate import SourceGate
from streamer.jobs.retention import Retention
from streamer.jobs.runner import ENDED_ELSEWHERE, Runner
from streamer.jobs.store import ATTEMPTS, RENEWAL, Store
from streamer.model import Export, ExportRequest, Place, State
from streamer.postgres.failures import with_causes
from streamer.postgres.pool import BACKOFF
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

CANCELLED = "the export was cancelled"
STOPPED = "the server was stopped before the export was finished; start a new one"
SERVED = "the server that ran this export died when a part of it had been downloaded already; start a new one"
EXHAUSTED = f"the server that ran this export died {ATTEMPTS} times; start a new one"
UNREADABLE = "this version cannot read what the export asks for; it is left to a server that can"
RELEASED = "the server is stopping; the export is run by the next one"
STOP_TIMEOUT = 2.0  # seconds for the table to be told how all that is left ends, when the server stops


class ExportQueue:
    def __init__(
        self,
        store: Store,
        runner: Runner,
        directory: SpoolDirectory,
        sealed: CompletedCache,
        retention: Retention,
        *,
        gate: SourceGate,
        concurrency: int,
        capacity: int,
    ) -> None:
        self._store = store
        self._runner = runner
        self._directory = directory
        self._sealed = sealed
        self._retention = retention
        self._gate = gate
        self._concurrency = concurrency
        self._capacity = capacity
        self._live: dict[UUID, ActiveExport] = {}
        self._permits = asyncio.Semaphore(0)
        self._claiming = asyncio.Lock()
        self._listing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._services: list[asyncio.Task[Any]] = []
        self._stopping = False

    async def start(self) -> None:
        """Settles what dead servers left, removes files that belong to no export, and begins to work."""
        await self._recover_orphans()
        await self._retention.sweep()
        await self._retention.name_unknown()
        self._services = [self._spawn(self._work(), f"worker {number}") for number in range(self._concurrency)]
        self._services.append(self._spawn(self._keep_leases(), "leases"))

    async def drain(self) -> None:
        """Takes no more exports, and returns when those that have begun have ended."""
        self._stopping = True
        await asyncio.gather(*(live.finished() for live in self._live.values()))

    async def stop(self) -> None:
        """Takes no more exports; what is not finished is left to the next server, or fails.

        A database that does not answer is not waited for: then its leases tell the next server.
        """
        self._stopping = True
        services, self._services = self._services, []
        for service in services:
            service.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                await _all_of(services)
                await _all_of(
                    [self._spawn(self._release_or_fail(live), f"leave {live.id}") for live in self._live.values()]
                )
        for live in self._live.values():
            live.abort(STOPPED)
        self._live.clear()

    async def submit(
        self, request: ExportRequest, *, key: str | None = None, abandon_after: float | None = None
    ) -> ActiveExport | Export:
        """Queues an export, whole even if the caller is cancelled meanwhile.

        With an idempotency `key` that is known, it is the export that was asked for then. With `abandon_after`
        (seconds) it is cancelled once nobody has followed it for so long. Raises QueueFull, KeyReused, Unavailable and
        InsufficientStorage.
        """
        if self._stopping:
            raise Unavailable("the server is stopping")
        if key is not None and (known := await self._store.by_key(key)):
            return _same(known, request)
        self._check_capacity()  # before a completed export is given up for this one
        await self._retention.make_room()
        self._check_capacity()
        live = self._register(uuid4())
        inserted = await asyncio.shield(self._spawn(self._insert(live, request, key, abandon_after), "submit"))
        if inserted:
            return live
        assert key is not None
        known = await self._store.by_key(key)  # somebody was faster with the same key
        assert known is not None
        return _same(known, request)

    def _check_capacity(self) -> None:
        if sum(live.waiting for live in self._live.values()) >= self._capacity:
            raise QueueFull(f"{self._capacity} exports are waiting already")

    async def get(self, export_id: UUID) -> Export:
        """Raises NotFound. Who is told that an export is completed finds it sealed: the row is written before that."""
        export = await self._store.get(export_id)
        if export is None:
            raise NotFound(f"there is no export {export_id}")
        if export.state is State.COMPLETED and (live := self._live.get(export_id)):
            await live.spool.end()
        return export

    async def page(
        self, states: Sequence[State], label: str | None, before: Place | None, limit: int
    ) -> tuple[list[Export], bool]:
        """The newest exports before a place in the list, and whether there are more. One page is read at a time."""
        async with self._listing:
            return await self._store.page(states, label, before, limit)

    def live(self, export_id: UUID) -> ActiveExport | None:
        """The export, if it is unfinished and this process runs it."""
        live = self._live.get(export_id)
        return live if live and not live.spool.ended else None

    async def cancel(self, export_id: UUID) -> Export:
        """Cancels an unfinished export, and leaves a finished one as it is. Raises NotFound and WrittenByNewer.

        Whole even if the caller is cancelled meanwhile.
        """
        return await asyncio.shield(self._spawn(self._cancel(export_id), "cancel"))

    async def remove(self, export_id: UUID) -> Export:
        """Cancels an unfinished export, or removes the file of a finished one. Raises and is whole as `cancel`."""
        return await asyncio.shield(self._spawn(self._remove(export_id), "remove"))

    async def _cancel(self, export_id: UUID) -> Export:
        return await self._cancel_unfinished(export_id) or await self._finished(export_id)

    async def _cancel_unfinished(self, export_id: UUID) -> Export | None:
        live = self._live.get(export_id)
        cancelled = await self._store.cancel(export_id, live.percentage if live else 0.0)
        if cancelled is not None and (live := self._live.pop(export_id, None)):
            await live.stop(CANCELLED)
        return cancelled

    async def _remove(self, export_id: UUID) -> Export:
        if cancelled := await self._cancel_unfinished(export_id):
            return cancelled
        export = await self._finished(export_id)
        await self._retention.remove(export_id)
        return export

    async def _finished(self, export_id: UUID) -> Export:
        """An export that is not to be cancelled. Raises NotFound, and WrittenByNewer if it may not have ended."""
        export = await self.get(export_id)
        if not export.final:
            raise unknown_state(export)
        return export

    def _register(self, export_id: UUID) -> ActiveExport:
        """From now on there is something to follow."""
        live = ActiveExport(
            export_id,
            self._directory.create(export_id, self._retention.keep_room),
            note_served=lambda: self._store.note_served(export_id),
            source_away=lambda: self._gate.away,
            reading=lambda: self._sealed.reading(export_id),
        )
        self._live[export_id] = live
        return live

    async def _insert(
        self, live: ActiveExport, request: ExportRequest, key: str | None, abandon_after: float | None
    ) -> bool:
        """Whether the row is new."""
        try:
            inserted = await self._store.insert(live.id, request, key)
        except BaseException:
            self._live.pop(live.id, None)  # a server that stops holds nothing any more
            raise
        if inserted is None:
            self._live.pop(live.id, None)
            return False
        live.content = ContentDescription.of(inserted)
        if abandon_after is not None:
            live.cancel_if_abandoned(abandon_after, lambda: self._spawn(self._cancel(live.id), "abandoned"))
        self._permits.release()
        return True

    async def _work(self) -> None:
        while not self._stopping:
            await self._permits.acquire()
            async with self._gate.passage():
                await self._run_next()

    async def _run_next(self) -> None:
        """Runs the oldest export that waits, if there is one."""
        export = await self._claim()
        live = self._live.get(export.id) if export else None
        if export is None or live is None or live.spool.ended:  # cancelled on the way
            return
        if export.spec is None:  # changed by other hands since it was queued here
            await self._release_or_fail(live, UNREADABLE)
            self._live.pop(live.id, None)
            return
        live.attempts = export.attempts
        delay = await live.run(self._spawn(self._runner.run(live, export.spec), f"export {live.id}"))
        if delay is None:
            if live.spool.sealed:
                self._sealed.mark_verified(live.id)
            self._live.pop(live.id, None)
        else:
            asyncio.get_running_loop().call_later(delay.total_seconds(), self._permits.release)

    async def _claim(self) -> Export | None:
        """A database that does not answer is waited for: the row is there, and its turn has come."""
        async for attempt in tenacity.AsyncRetrying(
            wait=BACKOFF,
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        ):
            with attempt:
                async with self._claiming:  # one at a time, each with a list that is true
                    return await self._store.claim(self._waiting(), self._directory.id)
        raise AssertionError("tenacity retries for ever")

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL.total_seconds())
            try:
                await self._store.renew_leases(self._waiting(), self._running())
                await self._drop_lost()
                if not self._stopping:
                    await self._recover_orphans()
                self._directory.restore()
            except Unavailable as error:
                log.warning("the leases could not be renewed: %s", with_causes(error))
            except Exception:
                log.exception("the leases could not be renewed")
            if self._waiting() and self._permits.locked():
                self._permits.release()  # the clocks of the table and of this process may differ

    def _waiting(self) -> list[UUID]:
        return [live.id for live in self._live.values() if live.waiting]

    def _running(self) -> list[UUID]:
        return [live.id for live in self._live.values() if not live.waiting]

    async def _drop_lost(self) -> None:
        """Of what waits here and has been ended, or taken over, by another server. A run finds that out by itself."""
        for export_id in await self._store.lost(self._waiting()):
            if (live := self._live.get(export_id)) and live.waiting:
                del self._live[export_id]
                live.abort(ENDED_ELSEWHERE)

    async def _recover_orphans(self) -> None:
        """Settles the exports of dead owners: runs them again, or fails them."""
        with self._directory.dead_owners() as dead:
            running = self._running()
            for export in await self._store.fail_orphans(dead, running, served=SERVED, exhausted=EXHAUSTED):
                log.warning("export %s failed: %s", export.id, export.error)
                await self._directory.remove(export.id)
            adopted = await self._store.reclaim(dead, running)
        for export in adopted:
            log.warning("export %s is run again: its server died", export.id)
            if export.id not in self._live:
                self._register(export.id).content = ContentDescription.of(export)
            self._permits.release()

    async def _release_or_fail(self, live: ActiveExport, reason: str = RELEASED) -> None:
        """By the rule for exports whose server is no more, while it still is."""
        ended = False
        try:
            released = None if live.served else await self._store.release(live.id, live.percentage)
            if released is None:
                reason = STOPPED
                failed = await self._store.fail(live.id, STOPPED, live.percentage)
                if failed is None and (await self.get(live.id)).state is State.COMPLETED:
                    return await live.finished()  # it is about to say so
            ended = True
        except Exception:
            log.exception("export %s: its end could not be written; it is settled when its lease runs out", live.id)
        return await live.stop(reason, ended=ended)

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


async def _all_of(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Returns when all of them have ended, however they did; they go on if this is cancelled."""
    if tasks:
        await asyncio.wait(tasks)


def _same(known: Export, request: ExportRequest) -> Export:
    """Raises KeyReused if the key was another request's."""
    if known.spec is None:
        raise KeyReused("Idempotency-Key: it was used for a request that this version cannot read; send a new one")
    if ExportRequest(spec=known.spec, label=known.label, ttl=known.ttl) != request:
        raise KeyReused("Idempotency-Key: it was used for another request; send a new one")
    return known
