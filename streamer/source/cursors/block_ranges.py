"""Ranges of the blocks of a table: how they are split, and how their rows are put back in order.

`RangeSplitter` splits tables into ranges of blocks. `ReorderBuffer` passes their rows on in the order of the blocks, in
whatever order the connections read them. The rows of the first unfinished range pass straight through.
Rows of later ranges are held in memory, up to a limit for all of them together; beyond it their reader waits until the
ranges before have been passed on. The reader of the first range never waits for another, so there is no deadlock.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamer.postgres.quoting import quote_relation
from streamer.source.cursors.cursor import Sink
from streamer.source.query.plan import Heap
from streamer.source.query.query import Query
from streamer.source.session.consistency import name_guard

FIRST_BLOCKS = 64  # of a range, until the bytes of a block are known
MAX_BLOCKS = 4096  # of a range


@dataclass(slots=True)
class BlockRange:
    """A range of blocks of one heap, and what has been received of its rows."""

    number: int
    sql: str
    blocks: int
    received: int = 0  # bytes
    rows: int = 0
    held: list[tuple[bytes | bytearray, int]] = field(default_factory=list)  # chunks and their rows
    complete: bool = False


class RangeSplitter:
    """Splits heaps into ranges of about `target` bytes of CSV each, estimated from the ranges read before.

    `planned` is the planner's estimate of the rows of all heaps. The first ranges have `first_blocks`.
    """

    def __init__(
        self, query: Query, heaps: Sequence[Heap], *, target: int, planned: int, first_blocks: int = FIRST_BLOCKS
    ) -> None:
        self._query = query
        self._heaps = [heap for heap in reversed(heaps) if heap.blocks]
        self._target = target
        self._planned = planned
        self._total_blocks = sum(heap.blocks for heap in heaps)
        self._blocks_read = 0
        self._rows_read = 0
        self._blocks = first_blocks  # of the next range
        self._block = 0  # the first of the next range, in the last heap
        self._number = 0

    @property
    def expected(self) -> int:
        """The expected rows in all: the rows read, and an estimate of the others with less weight on the plan's."""
        left = 1 - self._blocks_read / self._total_blocks if self._total_blocks else 0
        return round(self._rows_read + left * (self._rows_read + left * self._planned))

    @property
    def exhausted(self) -> bool:
        """Whether every range has been taken."""
        return not self._heaps

    def take(self) -> BlockRange | None:
        """Returns the next range in block order; None if all have been taken."""
        if not self._heaps:
            return None
        heap = self._heaps[-1]
        stop = min(self._block + self._blocks, heap.blocks)
        block_range = BlockRange(self._number, self._sql(heap, stop), stop - self._block)
        self._number += 1
        self._block = stop
        if stop == heap.blocks:
            self._heaps.pop()
            self._block = 0
        return block_range

    def _sql(self, heap: Heap, stop: int) -> str:
        """Returns the query of a range, which fails if the name has become that of another relation."""
        query = self._query.guarded(name_guard(heap.schema, heap.name, heap.oid))
        return query.sql_of_blocks(quote_relation(heap.schema, heap.name), self._block, stop)

    def adapt(self, block_range: BlockRange) -> None:
        """Sets the blocks of the next ranges, at most twice as many, from the bytes of a range that was read."""
        self._blocks_read += block_range.blocks
        self._rows_read += block_range.rows
        wanted = self._target * block_range.blocks // max(block_range.received, 1)
        self._blocks = max(1, min(wanted, 2 * block_range.blocks, MAX_BLOCKS))


class ReorderBuffer:
    """Passes the rows of ranges to a sink in the order of their numbers, and holds at most `limit` bytes of others."""

    def __init__(self, sink: Sink, limit: int) -> None:
        self.rows = 0  # passed on
        self.held = 0  # bytes
        self.failure: BaseException | None = None  # of the sink, which is not called again
        self._sink = sink
        self._limit = limit
        self._first = 0  # the number of the first unfinished range
        self._begun: dict[int, BlockRange] = {}
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()  # pulsed when a range is finished, held bytes are passed on, or the sink fails

    @property
    def empty(self) -> bool:
        """Whether every range that was begun has been passed on to its end."""
        return not self._begun

    def begin(self, block_range: BlockRange) -> None:
        self._begun[block_range.number] = block_range

    async def put(self, block_range: BlockRange, chunk: bytes | bytearray, rows: int) -> None:
        """Takes a chunk of a range. Returns when it is passed on or held. Raises the failure of the sink."""
        while block_range.number != self._first and self.held + len(chunk) > self._limit and self.failure is None:
            await self._changed.wait()
        self._check()
        block_range.received += len(chunk)
        block_range.rows += rows
        if block_range.number != self._first:
            block_range.held.append((chunk, rows))
            self.held += len(chunk)
            return
        async with self._writing:
            await self._write(chunk, rows)

    async def finish(self, block_range: BlockRange) -> None:
        """Completes a range. If it is the first unfinished one, passes on what the ranges after it have held."""
        block_range.complete = True
        if block_range.number != self._first:
            return
        async with self._writing:
            while first := self._begun.get(self._first):
                await self._write_held(first)
                if not first.complete:
                    return
                del self._begun[self._first]
                self._first += 1
                self._pulse()

    async def _write_held(self, block_range: BlockRange) -> None:
        for chunk, rows in block_range.held:
            await self._write(chunk, rows)
            self.held -= len(chunk)
            self._pulse()
        block_range.held.clear()

    async def _write(self, chunk: bytes | bytearray, rows: int) -> None:
        self._check()
        try:
            await self._sink(chunk, rows)
        except BaseException as failure:
            self.failure = failure
            self._pulse()
            raise
        self.rows += rows

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _pulse(self) -> None:
        self._changed.set()
        self._changed.clear()
