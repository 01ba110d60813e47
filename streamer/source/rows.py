"""The source as the rest of the house sees it: a spec goes in, rows come out.

Here the catalog, the snapshot, the query and the cursor meet, and here the database's errors become sentences.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import asyncpg

from streamer.errors import ExportFailure
from streamer.model import Dialect, ExportSpec
from streamer.protocol.dialect import RecordWriter
from streamer.source.catalog import Catalog
from streamer.source.copying import CopyCursor
from streamer.source.cursor import Cursor, Sink
from streamer.source.database import Connection, Pool
from streamer.source.fetching import FetchCursor
from streamer.source.query import Query, compose
from streamer.source.snapshot import open_snapshot


class CursorChoice(StrEnum):
    AUTO = "auto"
    COPY = "copy"
    FETCH = "fetch"


Opener = Callable[[Connection, Query, Dialect], Cursor]
CURSORS: Mapping[CursorChoice, Opener] = {
    CursorChoice.AUTO: CopyCursor,
    CursorChoice.COPY: CopyCursor,
    CursorChoice.FETCH: FetchCursor,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """An opened query: what is known before its first row, and the way to the rows."""

    snapshot_at: datetime
    expected: int  # rows, by the planner's estimate
    header: bytes
    cursor: Cursor

    async def drain(self, sink: Sink) -> int:
        """Hands the header and then every row to `sink`; returns the exact number of rows.

        Raises ExportFailure with the database's reason.
        """
        await sink(self.header, 0)
        failure: Exception | None = None

        async def guarded(page: bytes | bytearray, rows: int) -> None:
            nonlocal failure
            try:
                await sink(page, rows)
            except Exception as error:
                failure = error  # the sink's own, whatever becomes of it on its way through the driver
                raise

        try:
            with database_errors():
                return await self.cursor.drain(guarded)
        except Exception:
            if failure is None:
                raise
        assert failure is not None
        raise failure


class Source:
    """The database that is exported from."""

    def __init__(self, pool: Pool, catalog: Catalog, choice: CursorChoice = CursorChoice.AUTO) -> None:
        self._pool = pool
        self._catalog = catalog
        self._open_cursor = CURSORS[choice]

    @asynccontextmanager
    async def open(self, spec: ExportSpec) -> AsyncIterator[Rows]:
        """The rows of `spec`, all of one snapshot. Raises ExportFailure with the database's reason."""
        dataset = self._catalog.get(spec.dataset)
        if dataset is None:
            raise ExportFailure(f"the dataset {spec.dataset!r} is no longer offered")
        async with AsyncExitStack() as stack:
            with database_errors():
                snapshot = await stack.enter_async_context(open_snapshot(self._pool))
                query = await compose(snapshot.connection, dataset, spec)
                rows = Rows(
                    snapshot_at=snapshot.taken_at,
                    expected=await _estimate(snapshot.connection, query),
                    header=RecordWriter(spec.dialect, len(spec.columns)).records([spec.columns]),
                    cursor=self._open_cursor(snapshot.connection, query, spec.dialect),
                )
            yield rows


async def _estimate(connection: Connection, query: Query) -> int:
    """The number of rows that the planner expects; an export never waits to count."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query.sql}"))
    return int(plan[0]["Plan"]["Plan Rows"])


@contextmanager
def database_errors() -> Iterator[None]:
    """The database's own message is the user's; where it happened in the server stays in the log."""
    try:
        yield
    except asyncpg.PostgresConnectionError as error:
        raise ExportFailure("the connection to the database was lost") from error
    except asyncpg.PostgresError as error:
        raise ExportFailure(f"PostgreSQL: {error.args[0] if error.args else type(error).__name__}") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise ExportFailure("the connection to the database was lost") from error
