"""The rows of an opened query."""

from datetime import datetime

from streamer.formats.records import first_records
from streamer.source.cursors.cursor import Cursor, Sink
from streamer.source.failures import reading_errors
from streamer.source.session.time_limit import TimeLimit


class Rows:
    """An opened query: what is known before its first row, and its rows as CSV.

    `prologue` has the bytes before the first row. With a `limit` the query returns one row more, if there is one: it is
    not exported, and sets `truncated`.
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
        """The expected number of rows in all, an estimate."""
        return self.cursor.expected if self._limit is None else min(self.cursor.expected, self._limit)

    async def drain(self, sink: Sink) -> int:
        """Passes the prologue and every row to `sink`. Returns the exact number of rows.

        Raises what the sink raises, and ExportFailure with the reason of the database or if the time limit is exceeded.
        """
        async with self._time_limit.enforced():
            return await self._drain(sink)

    async def _drain(self, sink: Sink) -> int:
        if self.prologue:
            await sink(self.prologue, 0)
        limited = _LimitedSink(sink, self._limit, self._quote)
        try:
            with reading_errors():
                total = await self.cursor.drain(limited.take)
        except Exception:
            if limited.failure is None:
                raise
        if limited.failure is not None:
            raise limited.failure
        self.truncated = limited.truncated
        return total - self.truncated


class _LimitedSink:
    """Passes at most `limit` rows on to a sink, and keeps the failure of the sink, which a cursor may change."""

    def __init__(self, sink: Sink, limit: int | None, quote: bytes) -> None:
        self.truncated = False
        self.failure: Exception | None = None
        self._sink = sink
        self._limit = limit
        self._quote = quote
        self._rows = 0

    async def take(self, chunk: bytes | bytearray, rows: int) -> None:
        if self._limit is not None and self._rows + rows > self._limit:
            self.truncated = True
            rows = self._limit - self._rows
            chunk = first_records(chunk, self._quote, rows)
            if not rows:
                return
        self._rows += rows
        try:
            await self._sink(chunk, rows)
        except Exception as error:
            self.failure = error
            raise
