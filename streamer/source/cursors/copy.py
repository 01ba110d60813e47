"""CopyCursor: one COPY statement, for every query."""

import math
import time

from streamer.model import Dialect
from streamer.postgres.driver import Connection, copy_out, row_size_limit
from streamer.process.short_sleep import short_sleep
from streamer.source.cursors.cursor import Sink
from streamer.source.cursors.pacing import Pacing
from streamer.source.query.query import Query


class CopyCursor:
    def __init__(self, connection: Connection, query: Query, dialect: Dialect, *, expected: int) -> None:
        self.expected = expected
        self._connection = connection
        self._query = query
        self._dialect = dialect

    async def drain(self, sink: Sink) -> int:
        return await copy(self._connection, self._query.sql, self._dialect, sink, Pacing())


async def copy(connection: Connection, sql: str, dialect: Dialect, sink: Sink, pacing: Pacing) -> int:
    """Passes the records of a query to `sink`, and returns their number. `pacing` is that of the connection.

    Raises what the sink raises, and ExportFailure if rows are missing or one is too large.
    """
    resumed = math.inf  # the start of the query says nothing about the rate of its rows

    async def take(chunk: bytearray, rows: int) -> None:
        nonlocal resumed
        arrived = time.monotonic()
        row_size.rows_delivered()
        await sink(chunk, rows)
        pause = pacing.pause(len(chunk), arrived - resumed) - (time.monotonic() - arrived)
        if pause > 0:
            await sleeper.sleep(pause)
        resumed = time.monotonic()

    with row_size_limit(connection).enforced("a row is larger") as row_size, short_sleep() as sleeper:
        return await copy_out(connection, sql, dialect, take)
