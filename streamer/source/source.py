"""The source as the rest of the house sees it: a spec goes in, rows come out.

Here the catalog, the snapshot, the query and the cursor meet, and here the database's errors become sentences.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from enum import StrEnum

import asyncpg

from streamer.errors import ExportFailure, SourceAway, SourceBusy, StartError, TransientFailure
from streamer.formats.dialect import prologue
from streamer.formats.records import first_records
from streamer.model import Dialect, ExportSpec
from streamer.postgres.driver import Connection
from streamer.postgres.failures import CONNECTION_LOST, one_line
from streamer.source.catalog.catalog import Catalog
from streamer.source.cursors.blocks import WITHOUT_INDEXES, BlockCursor
from streamer.source.cursors.copy import CopyCursor
from streamer.source.cursors.cursor import Cursor, Sink
from streamer.source.cursors.fetch import FetchCursor
from streamer.source.dataset import Dataset
from streamer.source.query.plan import Heap, Plan, explain, heaps_of
from streamer.source.query.query import Query, compose, max_rows
from streamer.source.session.connections import Connections
from streamer.source.session.consistency import (
    GIVE_WAY,
    OutdatedCatalogError,
    SourceChanged,
    compare,
    guard,
    is_of_a_guard,
)
from streamer.source.session.snapshot import LockRefusedError, Snapshot, open_snapshot
from streamer.source.session.time_limit import TimeLimit

log = logging.getLogger(__name__)

MAX_SNAPSHOTS = 5  # that are taken one after the other, before an export waits
FEW_BLOCKS = 256  # below this a second connection costs more than it brings


class CursorChoice(StrEnum):
    AUTO = "auto"
    BLOCKS = "blocks"
    COPY = "copy"
    FETCH = "fetch"


class Rows:
    """An opened query: what is known before its first row, and the way to the rows.

    `prologue` are the bytes before the first row. Of a query with a `limit` the cursor gives one row more, if there is
    one; it is not exported, but `truncated` tells of it.
    """

    def __init__(
        self,
        *,
        snapshot_at: datetime,
        prologue: bytes,
        cursor: Cursor,
        quote: str,
        limit: int | None,
        time_limit: TimeLimit,
    ) -> None:
        self.snapshot_at = snapshot_at
        self.prologue = prologue
        self.truncated = False
        self.cursor = cursor
        self._quote = quote.encode()
        self._limit = limit
        self._time_limit = time_limit

    @property
    def expected(self) -> int:
        """Rows in all, as far as can be told at this moment."""
        return self.cursor.expected if self._limit is None else min(self.cursor.expected, self._limit)

    async def drain(self, sink: Sink) -> int:
        """Hands what stands before the rows and then every row to `sink`; returns the exact number of rows.

        Raises ExportFailure with the database's reason, or if that takes too long.
        """
        async with self._time_limit.kept():
            return await self._drain(sink)

    async def _drain(self, sink: Sink) -> int:
        if self.prologue:
            await sink(self.prologue, 0)
        exported = 0
        failure: Exception | None = None

        async def guarded(page: bytes | bytearray, rows: int) -> None:
            nonlocal exported, failure
            if self._limit is not None and exported + rows > self._limit:
                self.truncated = True
                rows = self._limit - exported
                page = first_records(page, self._quote, rows)
                if not rows:
                    return
            exported += rows
            try:
                await sink(page, rows)
            except Exception as error:
                failure = error  # the sink's own, whatever becomes of it on its way through the driver
                raise

        try:
            with database_errors():
                total = await self.cursor.drain(guarded)
        except Exception:
            if failure is None:
                raise
        if failure is not None:
            raise failure
        return total - self.truncated


class Source:
    """The database that is exported from. `max_time` is how long a snapshot may be held, in seconds."""

    def __init__(
        self,
        connections: Connections,
        catalog: Catalog,
        choice: CursorChoice = CursorChoice.AUTO,
        *,
        max_time: float | None = None,
    ) -> None:
        self._connections = connections
        self._catalog = catalog
        self._choice = choice
        self._max_time = max_time

    @asynccontextmanager
    async def open(self, spec: ExportSpec) -> AsyncIterator[Rows]:
        """The rows of `spec`, all of one snapshot, which is no older than the locks on what is read.

        Raises SourceWait if that cannot be had at the moment, and ExportFailure with the database's reason.
        """
        async with AsyncExitStack() as stack:
            with opening_errors():
                rows = await self._begin(stack, spec)
            yield rows

    async def _begin(self, stack: AsyncExitStack, spec: ExportSpec) -> Rows:
        """Takes snapshots until one agrees with the catalog and with its locks; few are ever needed."""
        dataset = self._dataset(spec)
        for _ in range(MAX_SNAPSHOTS):
            try:
                return await self._open(stack, dataset, spec)
            except LockRefusedError as refusal:
                log.info("%s is read without a lock of its own: %s", dataset.name, one_line(refusal.__cause__))
                await stack.aclose()
                dataset = replace(dataset, locker=None)
            except SourceChanged as change:
                log.info("a newer snapshot is taken: %s", change)
                await stack.aclose()
            except SCHEMA_CHANGED as error:
                await stack.aclose()
                dataset = await self._reread(dataset, spec, error)
        raise SourceBusy("what the export reads is being changed again and again")

    def _dataset(self, spec: ExportSpec) -> Dataset:
        dataset = self._catalog.get(spec.dataset)
        if dataset is None:
            raise ExportFailure(f"the dataset {spec.dataset!r} is no longer offered")
        return dataset

    async def _open(self, stack: AsyncExitStack, dataset: Dataset, spec: ExportSpec) -> Rows:
        """Raises SourceChanged if the snapshot does not agree with its locks."""
        snapshot = await stack.enter_async_context(
            open_snapshot(self._connections.pool, role=self._connections.role, dataset=dataset, lock_timeout=GIVE_WAY)
        )
        time_limit = TimeLimit(self._max_time)
        async with time_limit.kept():
            return await self._plan(snapshot, dataset, spec, time_limit)

    async def _plan(self, snapshot: Snapshot, dataset: Dataset, spec: ExportSpec, time_limit: TimeLimit) -> Rows:
        if snapshot.shape != dataset.shape:
            raise OutdatedCatalogError(f"the relation of {dataset.name} has changed")
        query = await compose(snapshot.connection, dataset, spec)
        if self._choice is CursorChoice.BLOCKS and query.unordered:
            await snapshot.connection.execute(WITHOUT_INDEXES)
        plan = await explain(snapshot.connection, query)
        held = await compare(snapshot.connection, self._connections.beside, dataset, snapshot.locked)
        assert snapshot.taken_at is not None  # it is this session's own
        return Rows(
            snapshot_at=snapshot.taken_at,
            prologue=prologue(spec.dialect, spec.columns),
            cursor=await self._cursor(snapshot.connection, dataset, query, plan, spec.dialect, held=held),
            quote=spec.dialect.quote,
            limit=max_rows(dataset, spec),
            time_limit=time_limit,
        )

    async def _reread(self, known: Dataset, spec: ExportSpec, error: Exception) -> Dataset:
        """The dataset as it is now; raises `error` if that is what is known already, or nothing any more.

        A snapshot may be behind the catalog for a moment, as on a replica: then another one is taken.
        """
        log.info("the catalog is read again: %s", one_line(error))
        try:
            current = self._catalog.get(spec.dataset)
            if current is None or _same(current, known):
                await self._catalog.reread(outdated=current)
        except StartError as reason:
            log.warning("the catalog stays as it was: %s", reason)
        found = self._catalog.get(spec.dataset)
        if not isinstance(error, OutdatedCatalogError) and (found is None or _same(found, known)):
            raise error
        return self._dataset(spec)

    async def _cursor(
        self,
        connection: Connection,
        dataset: Dataset,
        query: Query,
        plan: Plan,
        dialect: Dialect,
        *,
        held: Sequence[int],
    ) -> Cursor:
        """Block ranges for a large table that would be scanned whole, COPY for everything else, or what was chosen.

        An order or a limit is of the whole query, not of a range of blocks: that is for COPY in any case. A cursor that
        plans the query once more may lock no more relations than those that are `held`.
        """
        guarded = query.guarded(guard(held))
        if self._choice is CursorChoice.FETCH:
            return FetchCursor(connection, guarded, dialect, expected=plan.expected)
        if query.unordered and (self._choice is CursorChoice.BLOCKS or self._may_be_worth_two(plan)):
            heaps = await heaps_of(connection, dataset, plan)
            if heaps is not None and (self._choice is CursorChoice.BLOCKS or self._worth_two(heaps)):
                return BlockCursor(connection, self._connections, query, dialect, heaps, planned=plan.expected)
            if self._choice is CursorChoice.BLOCKS:
                raise ExportFailure(
                    f"EXPORT_CURSOR=blocks reads tables and their partitions only, not {dataset.name!r}"
                )
        return CopyCursor(connection, guarded, dialect, expected=plan.expected)

    def _may_be_worth_two(self, plan: Plan) -> bool:
        """Told by the plan alone: of a small table the sizes are not asked for."""
        return self._choice is CursorChoice.AUTO and self._connections.helpers > 0 and plan.cost >= FEW_BLOCKS

    def _worth_two(self, heaps: Sequence[Heap]) -> bool:
        return sum(heap.blocks for heap in heaps) >= FEW_BLOCKS


def _same(found: Dataset, known: Dataset) -> bool:
    """Whether a query of the one is a query of the other; they may be locked differently."""
    return replace(found, locker=None) == replace(known, locker=None)


# That a dataset is not what the catalog knows: its relation, its columns, its kind, or what may be read of it.
SCHEMA_CHANGED = (
    OutdatedCatalogError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.WrongObjectTypeError,
    asyncpg.InsufficientPrivilegeError,
)

# What another attempt may not meet again (PostgreSQL documentation, appendix A).
TRANSIENT = (
    *CONNECTION_LOST,
    asyncpg.SerializationError,  # also a conflict with recovery, on a replica
    asyncpg.DeadlockDetectedError,
    asyncpg.SnapshotTooOldError,
)


@contextmanager
def opening_errors() -> Iterator[None]:
    """Before the first row: what time can heal is waited for."""
    try:
        yield
    except CONNECTION_LOST as error:
        raise SourceAway(_sentence(error)) from error
    except (asyncpg.LockNotAvailableError, *TRANSIENT) as error:
        raise SourceBusy(_sentence(error)) from error
    except asyncpg.PostgresError as error:
        raise ExportFailure(_sentence(error)) from error


@contextmanager
def database_errors() -> Iterator[None]:
    """The database's own message is the user's; where it happened in the server stays in the log."""
    try:
        yield
    except TRANSIENT as error:
        raise TransientFailure(_sentence(error)) from error
    except asyncpg.PostgresError as error:
        if is_of_a_guard(error):
            raise SourceBusy("what the export reads was changed at its beginning") from error
        raise ExportFailure(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError):
        return f"PostgreSQL: {error.args[0] if error.args else type(error).__name__}"
    said = error.__cause__  # by the server or a pooler, before it hung up
    reason = f": {one_line(said)}" if isinstance(said, asyncpg.PostgresError) else ""
    return f"the connection to the database was lost{reason}"
