"""Leases, and the exports of servers that died or stop.

Every unfinished row names the server that holds its lease. The server renews the lease, and holds a lock in the spool
folder. A row whose server is dead is settled by one rule: an export of which no byte was served is run again under the
same id, at most MAX_ATTEMPTS times; any other fails. The same rule holds for a run that meets a temporary failure, and
for a server that stops.
"""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from streamer.errors import Unavailable
from streamer.jobs.active import ENDED_ELSEWHERE, ActiveExport
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representations.making import Representations
from streamer.jobs.store import MAX_ATTEMPTS, Store
from streamer.jobs.tasks import Tasks, all_ended
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, Export, State
from streamer.postgres.failures import with_causes
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

STOPPED = "the server was stopped before the export was finished; start a new one"
SERVED = "the server that ran this export died when a part of it had been downloaded already; start a new one"
EXHAUSTED = f"the server that ran this export died {MAX_ATTEMPTS} times; start a new one"
RELEASED = "the server is stopping; the export is run by the next one"


class Recovery:
    """Each release of `permits` lets a worker claim one more row."""

    def __init__(
        self,
        store: Store,
        directory: SpoolDirectory,
        actives: ActiveExports,
        *,
        representations: Representations,
        tasks: Tasks,
        permits: asyncio.Semaphore,
        times: JobTimes,
    ) -> None:
        self._store = store
        self._directory = directory
        self._actives = actives
        self._representations = representations
        self._tasks = tasks
        self._permits = permits
        self._times = times

    async def keep_leases(self) -> None:
        """Renews the leases of this server, and looks for the exports of dead ones, until it is cancelled."""
        while True:
            await asyncio.sleep(self._times.renewal.total_seconds())
            try:
                await self.renew()
                if not self._actives.stopping:
                    await self.recover_orphans()
                self._directory.restore()
            except Unavailable as error:
                log.warning("the leases could not be renewed: %s", with_causes(error))
            except Exception:
                log.exception("the leases could not be renewed")
            if self._actives.waiting and self._permits.locked():
                self._permits.release()  # the clocks of the table and of this process may differ

    async def renew(self) -> None:
        """Renews the leases of this server's exports, and drops those that it has lost. Raises Unavailable."""
        await self._store.renew_leases(self._actives.waiting, self._actives.running)
        await self._drop_lost()

    async def _drop_lost(self) -> None:
        """Drops queued exports that another server has ended or taken over. A run notices that with its next report."""
        for export_id in await self._store.lost(self._actives.waiting):
            active = self._actives.get(export_id)
            if active and active.waiting:
                self._actives.pop(export_id)
                active.abort(ENDED_ELSEWHERE)

    async def recover_orphans(self) -> None:
        """Settles the exports of dead servers: queues them here, or fails them. Raises Unavailable and OSError."""
        with self._directory.dead_servers() as dead:
            await self._fail_orphans(dead)
            await self._representations.release_of(dead)
            reclaimed = await self._store.reclaim(dead, self._actives.running)
        for export in reclaimed:
            self._queue_again(export)

    async def _fail_orphans(self, dead: Sequence[UUID]) -> None:
        failed = await self._store.fail_orphans(dead, self._actives.running, served=SERVED, exhausted=EXHAUSTED)
        for export in failed:
            log.warning("export %s failed: %s", export.id, export.error)
            await self._directory.remove(export.id)

    def _queue_again(self, export: Export) -> None:
        log.warning("export %s is run again: its server died", export.id)
        if export.id not in self._actives:
            active = self._actives.register(export.id, export.principal)
            active.content = ContentDescription.of(export.spec, export.created_at)
        self._permits.release()

    async def release_all(self) -> None:
        """Releases or fails every export of this stopping server. If it is cancelled, the releases go on."""
        releases = [self._tasks.spawn(self.release_or_fail(active), f"release {active.id}") for active in self._actives]
        await all_ended(releases)

    def abort_all(self) -> None:
        """Breaks the followers of exports that could not be released; other servers find them by their leases."""
        for active in self._actives:
            active.abort(STOPPED)
        self._actives.clear()

    async def release_or_fail(self, active: ActiveExport, reason: str = RELEASED) -> None:
        """Settles an export of this server by the rule for dead servers. Its followers break with `reason`."""
        ended = False
        try:
            if active.served or not await self._released(active, reason):
                reason = STOPPED
                with active.ending(STOPPED):
                    failed = await self._store.fail(active.id, active.epoch, STOPPED, active.meter.percentage)
                if not failed and (await self._store.get(active.id, EVERYBODY)).state is State.COMPLETED:
                    return await active.finished()  # its run is about to seal the file
            ended = True
        except Exception:
            log.exception("export %s: its end could not be recorded; that is done when its lease runs out", active.id)
        return await active.stop(reason, ended=ended)

    async def _released(self, active: ActiveExport, reason: str) -> bool:
        with active.ending(reason):
            return await self._store.release(active.id, active.epoch, active.meter.percentage)
