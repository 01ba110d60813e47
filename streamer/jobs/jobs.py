"""Admission, workers and recovery of one server: how they are put together, and the order of start and stop."""

import asyncio
from contextlib import suppress
from typing import Any

from streamer.errors import Unavailable
from streamer.jobs.admission import Admission
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.idle_workers import IdleWorkers
from streamer.jobs.presence import Connect, Presence
from streamer.jobs.queue import Queue
from streamer.jobs.recovery import Recovery
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representations.making import Representations
from streamer.jobs.retention import Retention
from streamer.jobs.runner import Runner
from streamer.jobs.servers import Servers
from streamer.jobs.store import Store
from streamer.jobs.tasks import Tasks, all_ended
from streamer.jobs.times import JobTimes
from streamer.jobs.watch import Watch
from streamer.jobs.workers import Workers
from streamer.spool.directory import SpoolDirectory


class Jobs:
    """`concurrency` exports run at once on this server. `connect` opens a connection beside the pool of the store."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        runner: Runner,
        *,
        servers: Servers,
        connect: Connect,
        directory: SpoolDirectory,
        completed: CompletedCache,
        retention: Retention,
        representations: Representations,
        gate: SourceGate,
        concurrency: int,
        times: JobTimes,
    ) -> None:
        self._servers = servers
        self._retention = retention
        self._representations = representations
        self._concurrency = concurrency
        self._stop_timeout = times.stop_timeout
        self._services: list[asyncio.Task[Any]] = []
        self._tasks = tasks = Tasks()
        self._idle = idle = IdleWorkers(gate)
        self._actives = actives = ActiveExports(store, directory, completed=completed, retention=retention, gate=gate)
        self.admission = Admission(
            *(store, queue, actives),
            retention=retention,
            representations=representations,
            tasks=tasks,
            idle=idle,
        )
        self.recovery = Recovery(
            *(store, queue, servers, directory, actives),
            representations=representations,
            tasks=tasks,
            idle=idle,
            times=times,
        )
        self.watch = Watch(store, queue, actives, idle, times)
        self.presence = Presence(servers, connect, hear=self.watch.hear, bury=self.recovery.bury, times=times)
        self.workers = Workers(*(queue, actives), runner=runner, completed=completed, gate=gate, tasks=tasks, idle=idle)

    async def start(self) -> None:
        """Settles the exports of dead servers, removes files that no client can ask for, and starts the workers.

        Raises Unavailable and OSError.
        """
        await self._servers.beat()
        await self.recovery.recover_orphans()
        await self._retention.sweep()
        await self._retention.name_unknown()
        self._services = self.workers.start(self._concurrency)
        self._services.append(self._tasks.spawn(self.recovery.keep_leases(), "leases"))
        self._services.append(self._tasks.spawn(self.watch.run(), "watch"))
        self._services.append(self._tasks.spawn(self.presence.run(), "presence"))
        self._idle.wake()

    async def drain(self) -> None:
        """Takes no more exports, and returns when those that are running have ended."""
        self._actives.stopping = True
        await asyncio.gather(*(active.finished() for active in self._actives))

    async def stop(self) -> None:
        """Takes no more exports; releases unfinished ones to the next server, or fails them.

        Waits `stop_timeout` for the database. After that, other servers settle the rows when their leases run out.
        """
        self._actives.stopping = True
        services, self._services = self._services, []
        for service in services:
            service.cancel()
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(self._stop_timeout):
                await all_ended(services)
                await self.recovery.release_all()
                await self._representations.stop()
                await self._servers.leave()
        self.recovery.abort_all()
