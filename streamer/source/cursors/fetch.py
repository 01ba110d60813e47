"""FetchCursor: a server-side cursor, FETCH by FETCH, with the records written here.

Slower than COPY, and gentler: between two pages the server does nothing for us. It is the cursor for a server or a
pooler on which COPY is not allowed, and the second opinion that keeps the first one honest.
"""

from streamer.formats.records import RecordWriter
from streamer.model import Dialect
from streamer.postgres.pool import Connection
from streamer.postgres.row_limit import limited_rows
from streamer.source.cursors.cursor import Sink
from streamer.source.query.query import Query

FIRST_ROWS = 1  # of a page, until it is known how large they are
MAX_ROWS = 500
PAGE_TARGET = 256 * 1024  # bytes that a page is meant to have


class FetchCursor:
    def __init__(self, connection: Connection, query: Query, dialect: Dialect, *, expected: int) -> None:
        self.expected = expected
        self._connection = connection
        self._query = query
        self._dialect = dialect

    async def drain(self, sink: Sink) -> int:
        writer = RecordWriter(self._dialect, len(self._query.columns))
        statement = await self._connection.prepare(self._query.sql_as_text)
        cursor = await statement.cursor()
        total, wanted = 0, FIRST_ROWS
        with limited_rows(self._connection, "rows that FETCH gave together are larger") as meter:
            while rows := await cursor.fetch(wanted):
                meter.handed_over()
                page = writer.records(rows)
                await sink(page, len(rows))
                total += len(rows)
                wanted = max(1, min(PAGE_TARGET * len(rows) // len(page), 2 * wanted, MAX_ROWS))
        return total
