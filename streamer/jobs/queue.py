"""The queue: exports that wait, in the order in which any server may begin them.

An export that waits belongs to no server. A server claims the next one when a worker is free, and raises its epoch: see
store.py. A new export begins at once if the server has a free worker and no other export may begin before it.

The order is fair to principals, not to exports: first is the principal with the fewest running exports, then the one
that has started none for the longest time. Within a principal the oldest export is first.

Inserts and claims hold one advisory lock, so that limits are exact. The lock and the statement that counts are two
statements, because a statement sees only what was committed before it began.

A file is written in the folder of the server, so an export is claimed only by a server of the folder of the one that
accepted it. If no server of that folder is alive, another one adopts the export.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg

from streamer.jobs.table import STATEMENTS, T, Table, Work
from streamer.jobs.times import JobTimes
from streamer.model import SPEC_VERSION, Export, ExportRequest, Principal, folded, read_spec
from streamer.postgres.driver import Connection, Pool

COMMIT = "COMMIT"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new row. `begun` means that it runs on this server, with epoch 1."""

    created_at: datetime
    begun: bool


@dataclass(slots=True)
class Claim:
    """`export` is None if none may begin. Those in `unreadable` were passed over: this version cannot read them."""

    export: Export | None = None
    unreadable: list[UUID] = field(default_factory=list)


class Queue(Table):
    """The queue as the server process `server_id` sees it, whose files are in `folder`.

    Over all servers, `capacity` exports may wait, and `source_exports` may run (None: no limit).
    """

    def __init__(
        self,
        pool: Pool,
        server_id: UUID,
        times: JobTimes,
        *,
        folder: UUID,
        capacity: int,
        source_exports: int | None = None,
    ) -> None:
        super().__init__(pool, times)
        self._server_id = server_id
        self._folder = folder
        self.capacity = capacity
        self._source_exports = source_exports

    @property
    def is_limited(self) -> bool:
        """Whether the end of a run on another server may let an export begin here."""
        return self._source_exports is not None

    async def accept(
        self, export_id: UUID, request: ExportRequest, principal: Principal, key: str | None = None, *, begin: bool
    ) -> Accepted | None:
        """Inserts an export, which begins if `begin` (a worker is free) and no other may begin before it.

        Returns None if the principal has used the idempotency key already, or if the queue is full.
        """
        label = request.label
        row = (
            *(export_id, request.spec.to_json(), SPEC_VERSION, principal.name, key),
            *(label, None if label is None else folded(label), request.ttl, self._folder),
        )

        async def work(connection: Connection) -> Accepted | None:
            if begin and (rows := await self._begin(connection, row)):
                return Accepted(rows[0]["created_at"], begun=True)
            rows = await self._fetch(connection, "insert", *row, self.capacity)
            return Accepted(rows[0]["created_at"], begun=False) if rows else None

        return await self._execute(self._locked(work))

    async def _begin(self, connection: Connection, row: Sequence[object]) -> list[asyncpg.Record]:
        return await self._fetch(connection, "begin", *row, self._server_id, self._times.lease, self._source_exports)

    async def is_full(self) -> bool:
        rows = await self._rows("full", self.capacity)
        return bool(rows[0]["is_full"])

    async def claim(self, running: Sequence[UUID] = ()) -> Claim:
        """Claims the next export: pending → processing. Those in `running`, which still run here, are passed over."""
        if not await self.is_claimable():
            return Claim()  # without the lock, which new exports wait for

        async def work(connection: Connection) -> Claim:
            claim = Claim()
            while rows := await self._next(connection, [*running, *claim.unreadable]):
                export_id = rows[0]["id"]
                if read_spec(rows[0]) is None:
                    claim.unreadable.append(export_id)
                    continue
                claim.export = await self._claimed(connection, export_id)
                if claim.export is not None:
                    break
            return claim

        return await self._execute(self._locked(work))

    async def _next(self, connection: Connection, excluded: Sequence[UUID]) -> list[asyncpg.Record]:
        return await self._fetch(connection, "next", self._folder, SPEC_VERSION, excluded, self._source_exports)

    async def _claimed(self, connection: Connection, export_id: UUID) -> Export | None:
        """Returns None if it was cancelled meanwhile."""
        rows = await self._fetch(connection, "claim", export_id, self._server_id, self._times.lease, self._folder)
        return Export.from_row(rows[0]) if rows else None

    async def is_claimable(self) -> bool:
        """Returns whether an export may begin."""
        rows = await self._rows("claimable", self._folder, SPEC_VERSION, self._source_exports)
        return bool(rows[0]["found"])

    async def adopt(self) -> list[UUID]:
        """Takes exports over that wait in folders without a live server. Returns their ids."""
        return await self._ids("adopt", self._folder, self._times.lease, SPEC_VERSION)

    def _locked(self, work: Work[T]) -> Work[T]:
        """Returns the work as one transaction that holds the lock of the queue.

        A transaction that fails in any way ends with its connection: an answer that is late must not be taken for that
        of the next statement.
        """
        timeout = self._times.statement_timeout

        async def locked(connection: Connection) -> T:
            try:
                await connection.execute(STATEMENTS["lock_queue"], timeout=timeout)
                result = await work(connection)
                await connection.execute(COMMIT, timeout=timeout)
            except BaseException:
                connection.terminate()
                raise
            return result

        return locked
