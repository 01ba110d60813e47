"""Ranges of a table's blocks: split, and their rows put back in order.

`RangeSplitter` splits tables into ranges of blocks. `ReorderBuffer` passes their rows on in the order of the blocks,
whichever connection reads which range at what speed. The rows of the first unfinished range pass straight through.
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
from streamer.source.session.consistency import guard_of_name

FIRST_BLOCKS = 64  # of a page, until it is known what a block gives
MAX_BLOCKS = 4096


@dataclass(slots=True)
class BlockRange:
    """A range of blocks of one heap, and what has been taken of its rows."""

    number: int
    sql: str
    blocks: int
    taken: int = 0  # bytes
    rows: int = 0
    held: list[tuple[bytes | bytearray, int]] = field(default_factory=list)
    complete: bool = False


class RangeSplitter:
    """Cuts heaps into pages that give about `target` bytes each, as far as the pages before them can tell.

    `planned` is how many rows the planner expects of all of them.
    """

    def __init__(self, query: Query, heaps: Sequence[Heap], *, target: int, planned: int) -> None:
        self._query = query
        self._heaps = [heap for heap in reversed(heaps) if heap.blocks]
        self._target = target
        self._planned = planned
        self._blocks_in_all = sum(heap.blocks for heap in heaps)
        self._blocks_read = 0
        self._rows_read = 0
        self._blocks = FIRST_BLOCKS
        self._block = 0
        self._number = 0

    @property
    def expected(self) -> int:
        """Rows in all: those of the pages read and, for the rest, the planner's estimate, weighed less and less."""
        left = 1 - self._blocks_read / self._blocks_in_all if self._blocks_in_all else 0
        return round(self._rows_read + left * (self._rows_read + left * self._planned))

    @property
    def exhausted(self) -> bool:
        """Whether every page has been taken."""
        return not self._heaps

    def take(self) -> BlockRange | None:
        """The next page in block order; None when all have been taken."""
        if not self._heaps:
            return None
        heap = self._heaps[-1]
        stop = min(self._block + self._blocks, heap.blocks)
        page = BlockRange(self._number, self._sql(heap, stop), stop - self._block)
        self._number += 1
        self._block = stop
        if stop == heap.blocks:
            self._heaps.pop()
            self._block = 0
        return page

    def _sql(self, heap: Heap, stop: int) -> str:
        """The rows of a page; the statement fails if the name has become that of another relation."""
        query = self._query.guarded(guard_of_name(heap.schema, heap.name, heap.oid))
        return query.sql_of_blocks(quote_relation(heap.schema, heap.name), self._block, stop)

    def learn(self, page: BlockRange) -> None:
        """Rows may be wide, or few: the next pages have as many blocks as give the target, at most twice as many."""
        self._blocks_read += page.blocks
        self._rows_read += page.rows
        wanted = self._target * page.blocks // max(page.taken, 1)
        self._blocks = max(1, min(wanted, 2 * page.blocks, MAX_BLOCKS))


class ReorderBuffer:
    """Lets pages through in the order of their numbers, and holds at most `limit` bytes of what comes early."""

    def __init__(self, sink: Sink, limit: int) -> None:
        self.rows = 0
        self.held = 0  # bytes
        self.failure: BaseException | None = None  # of the sink, which is then called no more
        self._sink = sink
        self._limit = limit
        self._head = 0
        self._begun: dict[int, BlockRange] = {}
        self._writing = asyncio.Lock()
        self._moved = asyncio.Event()  # pulsed when the head moves, room is made, or the sink has failed

    def begin(self, page: BlockRange) -> None:
        self._begun[page.number] = page

    async def put(self, page: BlockRange, chunk: bytes | bytearray, rows: int) -> None:
        """Takes a chunk of a page: returns when it is written, or held."""
        while page.number != self._head and self.held + len(chunk) > self._limit and self.failure is None:
            await self._moved.wait()
        self._check()
        page.taken += len(chunk)
        page.rows += rows
        if page.number != self._head:
            page.held.append((chunk, rows))
            self.held += len(chunk)
            return
        async with self._writing:
            await self._write(chunk, rows)

    @property
    def settled(self) -> bool:
        """Whether every page that was begun has been written to its end."""
        return not self._begun

    async def finish(self, page: BlockRange) -> None:
        """The page is complete: if it is at the head, those behind it move up."""
        page.complete = True
        if page.number != self._head:
            return
        async with self._writing:
            while ahead := self._begun.get(self._head):
                await self._write_held(ahead)
                if not ahead.complete:
                    return
                del self._begun[self._head]
                self._head += 1
                self._pulse()

    async def _write_held(self, page: BlockRange) -> None:
        for chunk, rows in page.held:
            await self._write(chunk, rows)
            self.held -= len(chunk)
            self._pulse()
        page.held.clear()

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
        self._moved.set()
        self._moved.clear()
