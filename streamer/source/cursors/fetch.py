"""FetchCursor: a server-side cursor, whose rows are written as CSV here.

It is slower than COPY, and the server does nothing for it between two FETCHes. It is for servers and poolers that do
not allow COPY, and an independent implementation to compare the others with.
"""

from streamer.formats.records import RecordWriter
from streamer.model import Dialect
from streamer.postgres.driver import Connection, row_size_limit
from streamer.source.cursors.cursor import Sink
from streamer.source.query.query import Query

FIRST_ROWS = 1  # of the first FETCH, when the size of a row is not known
MAX_ROWS = 500  # of a FETCH
CHUNK_TARGET = 256 * 1024  # bytes


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
        with row_size_limit(self._connection).enforced("rows that FETCH gave together are larger") as row_size:
            while rows := await cursor.fetch(wanted):
                row_size.rows_delivered()
                chunk = writer.records(rows)
                await sink(chunk, len(rows))
                total += len(rows)
                wanted = max(1, min(CHUNK_TARGET * len(rows) // len(chunk), 2 * wanted, MAX_ROWS))
        return total
