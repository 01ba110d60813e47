"""The workers of this server that are idle: which of them runs the next export, and what wakes them.

An idle worker gets an export that was accepted for it, or is woken to claim one. It is woken for everything that may
let an export begin: one was queued, one has ended, a limit allows one more. A wake-up is a hint. It may find nothing,
and one that finds no idle worker is kept for the next.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.jobs.active import ActiveExport
from streamer.jobs.gate import SourceGate
from streamer.model import ExportSpec

Begun = tuple[ActiveExport, ExportSpec]


class Reservation:
    """A worker that is reserved for an export. Unless it is filled, the worker is woken when it is left."""

    def __init__(self, worker: "asyncio.Future[Begun | None]") -> None:
        self._worker = worker

    def fill(self, active: ActiveExport, spec: ExportSpec) -> None:
        self._give((active, spec))

    def leave(self) -> None:
        self._give(None)

    def _give(self, begun: Begun | None) -> None:
        if not self._worker.done():  # filled before, or ended because the server stops
            self._worker.set_result(begun)


class IdleWorkers:
    def __init__(self, gate: SourceGate) -> None:
        self._gate = gate
        self._workers: deque[asyncio.Future[Begun | None]] = deque()
        self.woken = False  # a wake-up is kept

    @property
    def any(self) -> bool:
        """Whether a worker is idle."""
        while self._workers and self._workers[0].done():  # cancelled
            self._workers.popleft()
        return bool(self._workers)

    @property
    def free(self) -> bool:
        """Whether an export could begin here: a worker is idle, and the source is not away."""
        return self.any and not self._gate.away

    @contextmanager
    def reserved(self) -> Iterator[Reservation | None]:
        """Reserves a worker while the context is open; None if no export could begin here."""
        reservation = Reservation(self._workers.popleft()) if self.free else None
        try:
            yield reservation
        finally:
            if reservation is not None:
                reservation.leave()

    def wake(self) -> None:
        """Lets one idle worker claim an export."""
        if self.any:
            self._workers.popleft().set_result(None)
        else:
            self.woken = True

    async def next(self) -> Begun | None:
        """Waits, as an idle worker. Returns an export to run, or None to claim one."""
        if self.woken:
            self.woken = False
            return None
        worker: asyncio.Future[Begun | None] = asyncio.get_running_loop().create_future()
        self._workers.append(worker)
        return await worker
