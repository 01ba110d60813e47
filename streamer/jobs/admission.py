"""The calls of the API: submit, read, list, cancel and remove exports."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from uuid import UUID, uuid4

import msgspec

from streamer.errors import KeyReused, QueueFull, Unavailable
from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import unknown_state
from streamer.jobs.idle_workers import IdleWorkers
from streamer.jobs.queue import Queue
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representations.making import Representations
from streamer.jobs.retention import Retention
from streamer.jobs.store import Store
from streamer.jobs.tasks import Tasks
from streamer.model import EVERYBODY, Export, ExportFilter, ExportRequest, Place, Principal, State, Viewer, may_see
from streamer.protocol.disposition import ContentDescription

CANCELLED = "the export was cancelled"


class Admission:
    def __init__(
        self,
        store: Store,
        queue: Queue,
        actives: ActiveExports,
        *,
        retention: Retention,
        representations: Representations,
        tasks: Tasks,
        idle: IdleWorkers,
    ) -> None:
        self._store = store
        self._queue = queue
        self._actives = actives
        self._retention = retention
        self._representations = representations
        self._tasks = tasks
        self._idle = idle
        self._listing = asyncio.Lock()

    async def submit(
        self,
        request: ExportRequest,
        principal: Principal,
        *,
        key: str | None = None,
        abandon_after: float | None = None,
    ) -> ActiveExport | Export:
        """Accepts an export within the bounds of the principal. It begins at once, or waits in the queue.

        The row and its followers stay consistent if the caller is cancelled. With an idempotency `key` that is known,
        returns the export of the first request. With `abandon_after` (seconds), the export is cancelled when it has had
        no follower for that long. Raises QueueFull, KeyReused, Unavailable and InsufficientStorage.
        """
        if self._actives.stopping:
            raise Unavailable("the server is stopping")
        request = replace(request, spec=msgspec.structs.replace(request.spec, bounds=principal.bounds))
        if key is not None and (known := await self._store.by_key(principal, key)):
            return _same_request(known, request)
        if not self._idle.free and await self._queue.is_full():
            raise self._full()  # before a completed export is removed to make room for this one
        await self._retention.make_room()
        active = self._actives.register(uuid4(), principal.name)
        insertion = self._insert(active, request, principal, key, abandon_after)
        if await asyncio.shield(self._tasks.spawn(insertion, "submit")):
            return active
        if key is not None and (known := await self._store.by_key(principal, key)):
            return _same_request(known, request)  # another request with the same key was faster
        raise self._full()

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._queue.capacity} exports are waiting already")

    async def _insert(
        self,
        active: ActiveExport,
        request: ExportRequest,
        principal: Principal,
        key: str | None,
        abandon_after: float | None,
    ) -> bool:
        """Returns whether there is a row, which waits or has begun."""
        with self._idle.reserved() as worker:
            try:
                accepted = await self._queue.accept(active.id, request, principal, key, begin=worker is not None)
            except BaseException:
                self._actives.pop(active.id)
                raise
            if accepted is None:
                self._actives.pop(active.id)
                return False
            active.content = ContentDescription.of(request.spec, accepted.created_at)
            if accepted.begun:
                assert worker is not None
                active.begin_run(epoch=1, attempts=1)
                worker.fill(active, request.spec)
        if abandon_after is not None:
            active.abandonment.arm(
                abandon_after, lambda: self._tasks.spawn(self._cancel(active.id, EVERYBODY), "abandoned")
            )
        if worker is None:
            self._idle.wake()  # a worker may have become idle before the row was there
        return True

    async def get(self, export_id: UUID, viewer: Viewer) -> Export:
        """Returns the row. The file of a completed export is sealed, also in this process. Raises NotFound."""
        export = await self._store.get(export_id, viewer)
        if export.state is State.COMPLETED and (active := self._actives.get(export_id)):
            await active.spool.end()  # the row is written before the file is sealed
        return export

    async def page(
        self, viewer: Viewer, wanted: ExportFilter, before: Place | None, limit: int
    ) -> tuple[list[Export], bool]:
        """Returns the newest exports before a place in the list, and whether there are more. One call at a time."""
        async with self._listing:
            return await self._store.page(viewer, wanted, before, limit)

    def active(self, export_id: UUID, viewer: Viewer) -> ActiveExport | None:
        """Returns the export if it is unfinished, in this process, and visible."""
        active = self._actives.get(export_id)
        return active if active and may_see(viewer, active.principal) and not active.spool.ended else None

    async def cancel(self, export_id: UUID, viewer: Viewer) -> Export:
        """Cancels an unfinished export, and leaves a finished one as it is. Raises NotFound and WrittenByNewer.

        It completes even if the caller is cancelled.
        """
        return await asyncio.shield(self._tasks.spawn(self._cancel(export_id, viewer), "cancel"))

    async def remove(self, export_id: UUID, viewer: Viewer) -> Export:
        """Cancels an unfinished export, or removes the file of a finished one. Otherwise as `cancel`."""
        return await asyncio.shield(self._tasks.spawn(self._remove(export_id, viewer), "remove"))

    async def _cancel(self, export_id: UUID, viewer: Viewer) -> Export:
        return await self._cancel_unfinished(export_id, viewer) or await self._finished(export_id, viewer)

    async def _cancel_unfinished(self, export_id: UUID, viewer: Viewer) -> Export | None:
        active = self._actives.get(export_id)
        with active.ending(CANCELLED) if active else nullcontext():
            cancelled = await self._store.cancel(export_id, viewer, active.meter.percentage if active else 0.0)
        if cancelled is not None and (active := self._actives.pop(export_id)):
            await active.stop(CANCELLED)
        return cancelled

    async def _remove(self, export_id: UUID, viewer: Viewer) -> Export:
        if cancelled := await self._cancel_unfinished(export_id, viewer):
            return cancelled
        export = await self._finished(export_id, viewer)
        await self._retention.remove(export_id)
        self._representations.forget(export_id)
        return export

    async def _finished(self, export_id: UUID, viewer: Viewer) -> Export:
        """Returns an export that has ended. Raises NotFound, and WrittenByNewer for a state that may not be final."""
        export = await self.get(export_id, viewer)
        if not export.final:
            raise unknown_state(export)
        return export


def _same_request(known: Export, request: ExportRequest) -> Export:
    """Returns `known`. Raises KeyReused if it was created by another request."""
    if known.spec is None:
        raise KeyReused("Idempotency-Key: it was used for a request that this version cannot read; send a new one")
    if ExportRequest(spec=known.spec, label=known.label, ttl=known.ttl) != request:
        raise KeyReused("Idempotency-Key: it was used for another request; send a new one")
    return known
