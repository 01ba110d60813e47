"""BlockCursor: COPY of block ranges over several connections, in one snapshot and in order.

One COPY uses one core of the server. So the table is split into ranges of blocks. Each connection takes the next range
that no other has taken, and copies it by a TID range scan (PostgreSQL 14 and later). The first connection is the
leader's, which exports its snapshot; the others are workers', which import it. The output is in block order, so its
bytes are those of one sequential scan: see block_ranges.py.

A worker may lose its connection: while the leader holds the snapshot, its range is read again on a new connection, and
bytes that have been received before are skipped, because they are the same. If the leader loses its connection, the
snapshot is gone and the export fails.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg

from streamer.errors import ExportFailure
from streamer.formats.records import count_records
from streamer.model import Dialect
from streamer.postgres.driver import Connection
from streamer.postgres.failures import CONNECTION_LOST
from streamer.source.cursors.block_ranges import FIRST_BLOCKS, BlockRange, RangeSplitter, ReorderBuffer
from streamer.source.cursors.copy import copy
from streamer.source.cursors.cursor import Sink
from streamer.source.cursors.pacing import Pacing
from streamer.source.query.plan import Heap, explain
from streamer.source.query.query import Query
from streamer.source.session.connections import Connections
from streamer.source.session.snapshot import ExportedSnapshot, SnapshotGoneError, export_snapshot

log = logging.getLogger(__name__)

HOLD_LIMIT = 2 * 1024 * 1024  # bytes of rows of later ranges for each worker, beside one chunk for each connection
MAX_RECONNECTS = 5  # for one range
REPLACEABLE = (*CONNECTION_LOST, asyncpg.LockNotAvailableError)  # a worker goes on with another connection

# A range is read by its blocks alone: an index that serves the filter would be scanned once for every range.
WITHOUT_INDEXES = """
    SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off
"""
SCAN_BLOCKS = f"{WITHOUT_INDEXES}; SET LOCAL enable_seqscan = off; SET LOCAL enable_tidscan = on"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReading:
    """How tables are split into ranges of blocks, and read by several connections.

    `hold_limit` is a range for each worker: with less, workers would wait while the first range is read.

    A worker takes all locks it will need before it takes a range, and waits `lock_timeout` for them. A session that
    waits for the lock of the leader (ALTER TABLE, LOCK) is before the worker in the queue, and the leader would wait
    for the worker: a deadlock that PostgreSQL cannot detect.
    """

    min_blocks: int = 256  # of a table; a smaller one is not worth a second connection
    first_blocks: int = FIRST_BLOCKS  # of a range, until the bytes of a block are known
    range_target: int = 2 * 1024 * 1024  # bytes of CSV of one range
    hold_limit: int = HOLD_LIMIT
    first_pause: float = 0.2  # seconds before the first reconnect; doubled before each of the others
    lock_timeout: str = "1s"
    splitter: type[RangeSplitter] = RangeSplitter
    buffer: type[ReorderBuffer] = ReorderBuffer


class BlockCursor:
    def __init__(
        self,
        leader: Connection,
        connections: Connections,
        query: Query,
        dialect: Dialect,
        heaps: Sequence[Heap],
        *,
        planned: int,
        reading: BlockReading,
        role: str | None = None,
    ) -> None:
        self._leader = leader
        self._connections = connections
        self._dialect = dialect
        self._query = query
        self._ranges = reading.splitter(
            *(query, heaps), target=reading.range_target, planned=planned, first_blocks=reading.first_blocks
        )
        self._idle: set[asyncio.Task[None]] = set()  # workers that have not taken a range yet
        self._reading = reading
        self._role = role

    @property
    def expected(self) -> int:
        return self._ranges.expected

    async def drain(self, sink: Sink) -> int:
        exported = await export_snapshot(self._leader)
        buffer = self._reading.buffer(sink, self._connections.workers * self._reading.hold_limit)
        await self._read_all(exported, _RangeReader(self._ranges, buffer, self._dialect), buffer)
        if not (self._ranges.exhausted and buffer.empty):
            raise ExportFailure("not every range of the table was read")
        return buffer.rows

    async def _read_all(self, exported: ExportedSnapshot, reader: "_RangeReader", buffer: ReorderBuffer) -> None:
        failures: Sequence[BaseException] = ()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lead(reader))
                self._idle.update(
                    group.create_task(self._work(exported, reader, buffer)) for _ in range(self._connections.workers)
                )
        except BaseExceptionGroup as group_failure:
            failures = group_failure.exceptions
        if failures:
            raise failures[0]  # the other tasks were cancelled because of it

    async def _lead(self, reader: "_RangeReader") -> None:
        await self._leader.execute(SCAN_BLOCKS)
        pacing = Pacing()
        while block_range := self._ranges.take():
            await reader.read(self._leader, block_range, pacing)
        for worker in self._idle:
            worker.cancel()  # no range is left

    async def _work(self, exported: ExportedSnapshot, reader: "_RangeReader", buffer: ReorderBuffer) -> None:
        """Reads on a spare connection, if there is one."""
        with self._connections.try_reserve() as reserved:
            if reserved:
                worker = _Worker(
                    connections=self._connections,
                    exported=exported,
                    query=self._query,
                    reader=reader,
                    buffer=buffer,
                    take=self._take_for_worker,
                    reading=self._reading,
                    role=self._role,
                )
                await worker.run()

    def _take_for_worker(self) -> BlockRange | None:
        if task := asyncio.current_task():
            self._idle.discard(task)
        return self._ranges.take()


class _RangeReader:
    """Reads ranges into the reorder buffer, on any connection."""

    def __init__(self, ranges: RangeSplitter, buffer: ReorderBuffer, dialect: Dialect) -> None:
        self._ranges = ranges
        self._buffer = buffer
        self._dialect = dialect

    async def read(self, connection: Connection, block_range: BlockRange, pacing: Pacing) -> None:
        """Reads a range, without the bytes of it that have been received before. Raises ExportFailure."""
        quote = self._dialect.quote.encode()
        self._buffer.begin(block_range)
        skip = block_range.received

        async def take(chunk: bytes | bytearray, rows: int) -> None:
            nonlocal skip
            if skip >= len(chunk):
                skip -= len(chunk)
                return
            if skip:
                chunk, skip = chunk[skip:], 0
                rows = count_records(chunk, quote)
            await self._buffer.put(block_range, chunk, rows)

        rows = await copy(connection, block_range.sql, self._dialect, take, pacing)
        if rows != block_range.rows:
            raise ExportFailure(f"a range of the table has {rows} rows, and {block_range.rows} records were received")
        self._ranges.adapt(block_range)
        await self._buffer.finish(block_range)


class _Worker:
    """Reads ranges on a connection of the pool, and on another one if that is lost."""

    def __init__(
        self,
        *,
        connections: Connections,
        exported: ExportedSnapshot,
        query: Query,
        reader: _RangeReader,
        buffer: ReorderBuffer,
        take: Callable[[], BlockRange | None],
        reading: BlockReading,
        role: str | None,
    ) -> None:
        self._connections = connections
        self._exported = exported
        self._query = query
        self._reader = reader
        self._buffer = buffer
        self._take = take
        self._reading = reading
        self._role = role
        self._range: BlockRange | None = None  # which has been taken and not been read to its end
        self._losses = 0  # of connections, for this range
        self._first_loss: Exception | None = None  # for this range

    async def run(self) -> None:
        """Reads until no range is left, or no connection can be made while no range is taken.

        Raises an error of the sink, and one that leaves a range which cannot be read on another connection.
        """
        while True:
            try:
                return await self._read_ranges()
            except (*REPLACEABLE, asyncpg.PostgresError) as error:
                if self._buffer.failure is not None:
                    raise
                if self._range is None or isinstance(error, REPLACEABLE):
                    log.warning("a worker of an export has lost its connection: %r", error)
                if self._range is None:
                    return None
                if not self._may_reconnect(error):
                    raise _root_cause(self._first_loss, error)  # noqa: B904 - the one may be the cause of the other
                await self._back_off(error)

    async def _read_ranges(self) -> None:
        async with self._connections.open_snapshot(self._exported, role=self._role) as snapshot:
            await self._lock(snapshot.connection)
            pacing = Pacing()
            while block_range := self._range or self._take():
                self._range = block_range
                await self._reader.read(snapshot.connection, block_range, pacing)
                self._range, self._losses, self._first_loss = None, 0, None

    async def _lock(self, connection: Connection) -> None:
        await connection.execute(f"SET LOCAL lock_timeout = '{self._reading.lock_timeout}'")
        await explain(connection, self._query)
        await connection.execute(f"SET LOCAL lock_timeout = 0; {SCAN_BLOCKS}")

    def _may_reconnect(self, error: Exception) -> bool:
        replaceable = isinstance(error, REPLACEABLE) and not isinstance(error, SnapshotGoneError)
        return replaceable and self._losses < MAX_RECONNECTS

    async def _back_off(self, error: Exception) -> None:
        await asyncio.sleep(self._reading.first_pause * 2**self._losses)
        self._losses += 1
        self._first_loss = self._first_loss or error


def _root_cause(loss: Exception | None, error: Exception) -> Exception:
    """Returns the error to report if a worker cannot go on with another connection after `loss`.

    If the snapshot is gone, that is a consequence of the loss. Otherwise the loss is the cause of the error.
    """
    if loss is None:
        return error
    if isinstance(error, SnapshotGoneError):
        return loss
    error.__cause__ = error.__cause__ or loss
    return error
