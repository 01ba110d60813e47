"""BlockCursor: COPY of block ranges over several connections, one snapshot, in order.

One COPY keeps one core of the server busy. So the table is cut into pages, ranges of its blocks; each connection takes
the next page that nobody has taken, and copies it by a TID range scan (PostgreSQL 14 and later). All of them see the
snapshot that the lead connection has exported. The output is strictly in block order, so its bytes are those of one
sequential scan: see pages.py.

A helping connection that is lost takes nothing with it while the lead holds the snapshot: its page is read again on a
new one, and what was taken already is skipped, because it is the same. Without the lead there is no snapshot, and the
export fails.
"""

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from streamer.errors import ExportFailure
from streamer.formats.records import count_records
from streamer.model import Dialect
from streamer.postgres.driver import Connection
from streamer.postgres.failures import CONNECTION_LOST
from streamer.source.cursors.block_ranges import BlockRange, RangeSplitter, ReorderBuffer
from streamer.source.cursors.copy import copy
from streamer.source.cursors.cursor import Sink
from streamer.source.query.plan import Heap, explain
from streamer.source.query.query import Query
from streamer.source.session.connections import Connections
from streamer.source.session.snapshot import Exported, SnapshotGoneError, export_snapshot, open_snapshot

log = logging.getLogger(__name__)

HOLD_LIMIT = 2 * 1024 * 1024  # bytes of early pages, beside one chunk for each connection
PAGE_TARGET = 2 * 1024 * 1024  # bytes of CSV that a page is meant to give
RECONNECTS = 5  # for one page
FIRST_PAUSE = 0.2  # seconds before the second of them, twice as long before each that follows
REPLACED = (*CONNECTION_LOST, asyncpg.LockNotAvailableError)  # a connection that ends so leaves its page to another one

# A page is read by its blocks alone: an index that serves the filter would be walked once for every page.
WITHOUT_INDEXES = """
    SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off
"""
SCAN_BLOCKS = f"{WITHOUT_INDEXES}; SET LOCAL enable_seqscan = off; SET LOCAL enable_tidscan = on"
# A helper takes all the locks it will need before it takes a page. Somebody who waits for the lead to let go of the
# table (ALTER TABLE, LOCK) stands before the helper, and the lead would wait for the helper: a circle that PostgreSQL
# cannot see.
LOCK_TIMEOUT = "1s"


class BlockCursor:
    def __init__(
        self,
        lead: Connection,
        connections: Connections,
        query: Query,
        dialect: Dialect,
        heaps: Sequence[Heap],
        *,
        planned: int,
        hold_limit: int = HOLD_LIMIT,
        page_target: int = PAGE_TARGET,
    ) -> None:
        self._lead = lead
        self._connections = connections
        self._dialect = dialect
        self._query = query
        self._pages = RangeSplitter(query, heaps, target=page_target, planned=planned)
        self._idle: set[asyncio.Task[None]] = set()  # helpers that have no page yet
        self._hold_limit = hold_limit

    @property
    def expected(self) -> int:
        return self._pages.expected

    async def drain(self, sink: Sink) -> int:
        exported = await export_snapshot(self._lead)
        in_order = ReorderBuffer(sink, self._hold_limit)
        failed: Sequence[BaseException] = ()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_on_lead(in_order))
                self._idle.update(
                    group.create_task(self._help(exported, in_order)) for _ in range(self._connections.helpers)
                )
        except BaseExceptionGroup as failures:
            failed = failures.exceptions
        if failed:
            raise failed[0]  # the others were cancelled because of it
        if not (self._pages.exhausted and in_order.settled):
            raise ExportFailure("not every page of the table was read")
        return in_order.rows

    async def _read_on_lead(self, in_order: ReorderBuffer) -> None:
        await self._lead.execute(SCAN_BLOCKS)
        while page := self._pages.take():
            await self._read(self._lead, page, in_order)
        for helper in self._idle:
            helper.cancel()  # there is nothing left for it

    async def _help(self, exported: Exported, in_order: ReorderBuffer) -> None:
        """Reads on one connection more, if one is to be had: never waits for one, and does without one."""
        with self._connections.one_more() as granted:
            page, losses, loss = None, 0, None
            while granted:
                try:
                    async with open_snapshot(self._connections.pool, exported, role=self._connections.role) as snapshot:
                        await self._lock(snapshot.connection)
                        while page := page or self._take():
                            await self._read(snapshot.connection, page, in_order)
                            page, losses, loss = None, 0, None
                except (*REPLACED, asyncpg.PostgresError) as error:
                    if in_order.failure is not None:
                        raise
                    if page is None or isinstance(error, REPLACED):
                        log.warning("a connection that was to help an export is lost: %r", error)
                    if page is None:
                        return
                    if losses == RECONNECTS or isinstance(error, SnapshotGoneError) or not isinstance(error, REPLACED):
                        raise _cause_of_all(loss, error)  # noqa: B904 - the one may be the cause of the other
                    await asyncio.sleep(FIRST_PAUSE * 2**losses)
                    losses, loss = losses + 1, loss or error
                else:
                    return

    def _take(self) -> BlockRange | None:
        """A page for a helper."""
        if task := asyncio.current_task():
            self._idle.discard(task)
        return self._pages.take()

    async def _lock(self, connection: Connection) -> None:
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await explain(connection, self._query)
        await connection.execute(f"SET LOCAL lock_timeout = 0; {SCAN_BLOCKS}")

    async def _read(self, connection: Connection, page: BlockRange, in_order: ReorderBuffer) -> None:
        """Reads a page, or what of it has not been taken yet."""
        quote = self._dialect.quote.encode()
        in_order.begin(page)
        skip = page.taken

        async def take(chunk: bytes | bytearray, rows: int) -> None:
            nonlocal skip
            if skip >= len(chunk):
                skip -= len(chunk)
                return
            if skip:
                chunk, skip = chunk[skip:], 0
                rows = count_records(chunk, quote)
            await in_order.put(page, chunk, rows)

        rows = await copy(connection, page.sql, self._dialect, take)
        if rows != page.rows:
            raise ExportFailure(f"a page of the table has {rows} rows, and {page.rows} records were taken")
        self._pages.learn(page)
        await in_order.finish(page)


def _cause_of_all(loss: Exception | None, error: Exception) -> Exception:
    """What ended a helper that had lost its connection first: why it cannot come back, because of that loss.

    A snapshot that is gone is a consequence of the loss.
    """
    if loss is None:
        return error
    if isinstance(error, SnapshotGoneError):
        return loss
    error.__cause__ = error.__cause__ or loss
    return error
