"""CopyCursor: one COPY statement, for every query.

The driver delivers all records of its buffer as one chunk. Without a pause the chunks have some 9 KB, each with an
iteration of the event loop of its own. A pause after each chunk lets the socket fill: chunks of 100-200 KB, fewer than
half of the CPU seconds, the same speed. A thread sleeps for the pause: the timers of the event loop have a resolution
of a millisecond, in which the socket fills up and the server stops.
"""

import asyncio
import time

from streamer.model import Dialect
from streamer.postgres.driver import Connection, copy_out, row_size_limit
from streamer.source.cursors.cursor import Sink
from streamer.source.query.query import Query

PAUSE = 0.00025  # seconds


class CopyCursor:
    def __init__(self, connection: Connection, query: Query, dialect: Dialect, *, expected: int) -> None:
        self.expected = expected
        self._connection = connection
        self._query = query
        self._dialect = dialect

    async def drain(self, sink: Sink) -> int:
        return await copy(self._connection, self._query.sql, self._dialect, sink)


async def copy(connection: Connection, sql: str, dialect: Dialect, sink: Sink) -> int:
    """Passes the records of a query to `sink`, and returns their number.

    Raises what the sink raises, and ExportFailure if rows are missing or one is too large.
    """

    async def take(chunk: bytearray, rows: int) -> None:
        row_size.rows_delivered()
        await sink(chunk, rows)
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, PAUSE)

    with row_size_limit(connection).enforced("a row is larger") as row_size:
        return await copy_out(connection, sql, dialect, take)
