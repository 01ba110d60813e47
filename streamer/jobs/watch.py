"""Looks at the table for what other servers have done: exports that may begin here, and exports that they have taken.

The look is the truth. An announcement only makes it sooner.
"""

import asyncio
import logging
from contextlib import suppress
from uuid import UUID

from streamer.errors import Unavailable
from streamer.jobs.active import ENDED_ELSEWHERE, RUN_ELSEWHERE
from streamer.jobs.idle_workers import IdleWorkers
from streamer.jobs.queue import Queue
from streamer.jobs.registry import ActiveExports
from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.model import State

FINAL = frozenset(state for state in State if state.final)

log = logging.getLogger(__name__)


class Watch:
    def __init__(self, store: Store, queue: Queue, actives: ActiveExports, idle: IdleWorkers, times: JobTimes) -> None:
        self._store = store
        self._queue = queue
        self._actives = actives
        self._idle = idle
        self._interval = times.poll_interval
        self._taken = asyncio.Event()  # an export that waits here was announced

    def hear(self, text: str) -> None:
        """Takes an announcement: the id of an export, and its new state."""
        name, _, state = text.partition(" ")
        if self._idle.any and (state == State.PENDING or (state in FINAL and self._queue.is_limited)):
            self._idle.wake()
        with suppress(ValueError):  # another program may use the channel, too
            active = self._actives.get(UUID(name))
            if active and active.waiting and state != State.PENDING:
                self._taken.set()

    async def run(self) -> None:
        """Looks every `poll_interval` seconds, and when an export was taken, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._taken.wait()
            self._taken.clear()
            try:
                await self.look()
            except Unavailable:
                pass  # the renewal of the leases reports it
            except Exception:
                log.exception("the queue could not be read")

    async def look(self) -> None:
        """Drops exports that wait here and were taken, and wakes a worker if one may begin. Raises Unavailable."""
        await self.drop_lost()
        if self._idle.any and not self._actives.stopping and await self._queue.is_claimable():
            self._idle.wake()

    async def drop_lost(self) -> None:
        """Breaks the followers of exports that waited here, and were ended or begun elsewhere. Raises Unavailable."""
        if not self._actives.waiting:
            return
        for export_id, state in (await self._store.lost(self._actives.waiting)).items():
            active = self._actives.get(export_id)
            if active and active.waiting:  # a run notices that with its next report
                self._actives.pop(export_id)
                active.abort(RUN_ELSEWHERE if state == State.PROCESSING else ENDED_ELSEWHERE)
