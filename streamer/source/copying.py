"""CopyCursor: one COPY statement, for every query there is.

asyncpg hands over all complete CopyData messages in its buffer as one new bytearray; a message is a record, so a page
ends at a record boundary. Left alone the pages are some 9 KB, each with an epoll round trip of its own. A pause after
each lets the socket fill: pages of 100-200 KB, fewer than half of the CPU seconds, the same speed. The pause is a
thread's sleep: the event loop's own timers tick in milliseconds, in which the socket fills and the server stops.
"""

import asyncio
import time

from streamer.errors import ExportFailure
from streamer.model import Dialect
from streamer.protocol.dialect import count_records
from streamer.source.cursor import Sink
from streamer.source.database import Connection
from streamer.source.metering import metered
from streamer.source.query import Query

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
    """Hands the records of one query to `sink`, and returns their number.

    Raises ExportFailure if any are missing, or one is too large.
    """
    loop = asyncio.get_running_loop()
    quote = dialect.quote.encode()
    taken = 0

    async def take(page: bytearray) -> None:
        nonlocal taken
        meter.handed_over()
        rows = count_records(page, quote)
        taken += rows
        await sink(page, rows)
        await loop.run_in_executor(None, time.sleep, PAUSE)

    with metered(connection, "a row is larger") as meter:
        tag = await connection.copy_from_query(
            sql, output=take, format="csv", delimiter=dialect.delimiter, quote=dialect.quote, null=dialect.null
        )
    total = int(tag.removeprefix("COPY "))
    if taken != total:
        # asyncpg drops what is in its buffer when another message stands between two rows.
        raise ExportFailure(f"PostgreSQL sent {total} rows, of which {taken} arrived")
    return total
