"""The facade of the package: a source opens the rows of an ExportSpec.

It combines the catalog, the snapshot, the query and the cursor, and translates errors of the database.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from enum import StrEnum

from streamer.errors import ExportFailure, SourceBusy, StartError
from streamer.formats.dialect import prologue
from streamer.model import ExportSpec
from streamer.postgres.driver import Connection
from streamer.postgres.failures import one_line
from streamer.source.catalog.catalog import Catalog
from streamer.source.cursors.blocks import WITHOUT_INDEXES, BlockCursor, BlockReading
from streamer.source.cursors.copy import CopyCursor
from streamer.source.cursors.cursor import Cursor
from streamer.source.cursors.fetch import FetchCursor
from streamer.source.dataset import Dataset
from streamer.source.failures import SCHEMA_CHANGED, opening_errors
from streamer.source.query.plan import Heap, Plan, explain, heaps_of
from streamer.source.query.query import Query, compose, max_rows
from streamer.source.rows import Rows
from streamer.source.session.connections import Connections
from streamer.source.session.consistency import LOCK_TIMEOUT, OutdatedCatalogError, SourceChanged, compare, guard
from streamer.source.session.snapshot import LockRefusedError, Snapshot
from streamer.source.session.time_limit import TimeLimit

log = logging.getLogger(__name__)

MAX_SNAPSHOTS = 5  # in a row, before an export waits


class CursorChoice(StrEnum):
    AUTO = "auto"
    BLOCKS = "blocks"
    COPY = "copy"
    FETCH = "fetch"


class Source:
    """The database whose datasets are exported. `max_time` limits how long a snapshot is held, in seconds."""

    def __init__(
        self,
        connections: Connections,
        catalog: Catalog,
        choice: CursorChoice = CursorChoice.AUTO,
        *,
        max_time: float | None = None,
        reading: BlockReading | None = None,
    ) -> None:
        self._connections = connections
        self._catalog = catalog
        self._choice = choice
        self._max_time = max_time
        self._reading = reading or BlockReading()

    @asynccontextmanager
    async def open(self, spec: ExportSpec) -> AsyncIterator[Rows]:
        """Opens the rows of `spec`, all of one snapshot, which is no older than the locks on what is read.

        Raises SourceWait if that is not possible at the moment, and ExportFailure with the reason of the database.
        """
        async with AsyncExitStack() as stack:
            with opening_errors():
                rows = await self._open(stack, spec)
            yield rows

    async def _open(self, stack: AsyncExitStack, spec: ExportSpec) -> Rows:
        """Takes snapshots until one agrees with the catalog and with its locks, which is usually the first."""
        dataset = self._dataset(spec)
        for _ in range(MAX_SNAPSHOTS):
            try:
                return await self._try_open(stack, dataset, spec)
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
        raise SourceBusy("the tables of the export are being changed again and again")

    def _dataset(self, spec: ExportSpec) -> Dataset:
        dataset = self._catalog.get(spec.dataset)
        if dataset is None:
            raise ExportFailure(f"the dataset {spec.dataset!r} is no longer offered")
        return dataset

    async def _try_open(self, stack: AsyncExitStack, dataset: Dataset, spec: ExportSpec) -> Rows:
        """Opens the rows in one snapshot. Raises SourceChanged if it does not agree with its locks."""
        snapshot = await stack.enter_async_context(
            self._connections.open_snapshot(role=spec.bounds.role, dataset=dataset, lock_timeout=LOCK_TIMEOUT)
        )
        time_limit = TimeLimit(self._max_time)
        async with time_limit.enforced():
            return await self._rows(snapshot, dataset, spec, time_limit)

    async def _rows(self, snapshot: Snapshot, dataset: Dataset, spec: ExportSpec, time_limit: TimeLimit) -> Rows:
        if snapshot.shape != dataset.shape:
            raise OutdatedCatalogError(f"the relation of {dataset.name} has changed")
        query = await compose(snapshot.connection, dataset, spec)
        if self._choice is CursorChoice.BLOCKS and query.unordered:
            await snapshot.connection.execute(WITHOUT_INDEXES)
        plan = await explain(snapshot.connection, query)
        held = await compare(snapshot.connection, self._connections.beside, dataset, snapshot.locked)
        assert snapshot.taken_at is not None  # the snapshot is this session's own
        return Rows(
            snapshot_at=snapshot.taken_at,
            prologue=prologue(spec.dialect, spec.columns),
            cursor=await self._cursor(snapshot.connection, dataset, query, plan, spec, held=held),
            quote=spec.dialect.quote,
            limit=max_rows(dataset, spec),
            time_limit=time_limit,
        )

    async def _reread(self, known: Dataset, spec: ExportSpec, error: Exception) -> Dataset:
        """Returns the dataset as it is now. Raises `error` if it has not changed, or does not exist any more.

        A snapshot may be older than the catalog for a moment, as on a replica: then another one is taken.
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
        spec: ExportSpec,
        *,
        held: Sequence[int],
    ) -> Cursor:
        """Returns the cursor of the choice; AUTO means block ranges for a large table that is scanned, otherwise COPY.

        An order and a limit are of the whole query, not of a range of blocks: such a query is always for COPY. A cursor
        that plans the query once more must not lock more relations than `held`.
        """
        guarded = query.guarded(guard(held))
        if self._choice is CursorChoice.FETCH:
            return FetchCursor(connection, guarded, spec.dialect, expected=plan.expected)
        if query.unordered and (self._choice is CursorChoice.BLOCKS or self._may_be_parallel(plan)):
            heaps = await heaps_of(connection, dataset, plan)
            if heaps is not None and (self._choice is CursorChoice.BLOCKS or self._is_large(heaps)):
                return BlockCursor(
                    *(connection, self._connections, query, spec.dialect, heaps),
                    planned=plan.expected,
                    reading=self._reading,
                    role=spec.bounds.role,
                )
            if self._choice is CursorChoice.BLOCKS:
                raise ExportFailure(
                    f"EXPORT_METHOD=blocks reads tables and their partitions only, not {dataset.name!r}"
                )
        return CopyCursor(connection, guarded, spec.dialect, expected=plan.expected)

    def _may_be_parallel(self, plan: Plan) -> bool:
        """Decides by the plan alone, so that the sizes of small tables are not queried."""
        parallel = self._choice is CursorChoice.AUTO and self._connections.workers > 0
        return parallel and plan.cost >= self._reading.min_blocks

    def _is_large(self, heaps: Sequence[Heap]) -> bool:
        return sum(heap.blocks for heap in heaps) >= self._reading.min_blocks


def _same(found: Dataset, known: Dataset) -> bool:
    """Whether both datasets have the same queries; their locks may differ."""
    return replace(found, locker=None) == replace(known, locker=None)
