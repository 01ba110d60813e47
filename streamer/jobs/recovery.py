"""Leases, and the exports of servers that died or stop.

The row of every running export names the server that holds its lease. The server renews the lease, and holds a lock in
the spool folder. A row whose server is dead is settled by one rule: an export of which no byte was served waits for
another run under the same id, on any server, at most MAX_ATTEMPTS times; any other fails. The same rule holds for a run
that meets a temporary failure, and for a server that stops.
"""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from streamer.errors import Unavailable
from streamer.jobs.active import ActiveExport
from streamer.jobs.idle_workers import IdleWorkers
from streamer.jobs.queue import Queue
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representations.making import Representations
from streamer.jobs.servers import Servers
from streamer.jobs.store import MAX_ATTEMPTS, Store
from streamer.jobs.tasks import Tasks, all_ended
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, State
from streamer.postgres.failures import with_causes
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

STOPPED = "the server was stopped before the export was finished; start a new one"
SERVED = "the server that ran this export died when a part of it had been downloaded already; start a new one"
EXHAUSTED = f"the server that ran this export died {MAX_ATTEMPTS} times; start a new one"
RELEASED = "the server is stopping; the export is run by another one"


class Recovery:
    def __init__(
        self,
        store: Store,
        queue: Queue,
        servers: Servers,
        directory: SpoolDirectory,
        actives: ActiveExports,
        *,
        representations: Representations,
        tasks: Tasks,
        idle: IdleWorkers,
        times: JobTimes,
    ) -> None:
        self._store = store
        self._queue = queue
        self._servers = servers
        self._directory = directory
        self._actives = actives
        self._representations = representations
        self._tasks = tasks
        self._idle = idle
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

    async def renew(self) -> None:
        """Renews the leases of the exports that run here, and shows that this server is alive. Raises Unavailable."""
        await self._store.renew_leases(self._actives.running)
        await self._servers.beat()

    async def recover_orphans(self) -> None:
        """Settles the exports of dead servers: queues them, or fails them. Raises Unavailable and OSError."""
        with self._directory.dead_servers() as dead:
            await self.bury(dead)
        for export_id in await self._queue.adopt():
            log.warning("export %s is adopted: it waited for a server of another folder", export_id)
        self._idle.wake()

    async def bury(self, dead: Sequence[UUID]) -> None:
        """Settles the exports of servers that are known to be dead, and those with an expired lease.

        Raises Unavailable.
        """
        await self._fail_orphans(dead)
        await self._representations.release_of(dead)
        for export_id in await self._store.reclaim(dead, self._actives.running):
            log.warning("export %s is run again: its server died", export_id)

    async def _fail_orphans(self, dead: Sequence[UUID]) -> None:
        failed = await self._store.fail_orphans(dead, self._actives.running, served=SERVED, exhausted=EXHAUSTED)
        for export in failed:
            log.warning("export %s failed: %s", export.id, export.error)
            await self._directory.remove(export.id)

    async def release_all(self) -> None:
        """Releases or fails what runs on this stopping server. If it is cancelled, the releases go on."""
        releases = [self._tasks.spawn(self.release_or_fail(active), f"release {active.id}") for active in self._actives]
        await all_ended(releases)

    def abort_all(self) -> None:
        """Breaks the followers of exports that could not be released; other servers find them by their leases."""
        for active in self._actives:
            active.abort(STOPPED)
        self._actives.clear()

    async def release_or_fail(self, active: ActiveExport, reason: str = RELEASED) -> None:
        """Settles an export of this server by the rule for dead servers. Its followers break with `reason`.

        An export that waits belongs to no server, and stays as it is.
        """
        if active.waiting:
            return await active.stop(reason)
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
