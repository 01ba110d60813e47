"""CopyCursor: one COPY statement, for every query there is.

asyncpg hands over all complete CopyData messages in its buffer as one new bytearray; a message is a record, so a page
ends at a record boundary. Left alone the pages are some 9 KB, each with an epoll round trip of its own. A pause after
each lets the socket fill: pages of 100-200 KB, fewer than half of the CPU seconds, the same speed. The pause is a
thread's sleep: the event loop's own timers tick in milliseconds, in which the socket fills and the server stops.

A COPY is ended early only while the driver waits for rows and none can arrive. asyncpg sends no CancelRequest if it is
cancelled in the turn of the event loop in which rows arrive, and fails at the next message. If its sink fails at the
last rows, it waits for the end of a statement that has ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from streamer.errors import ExportFailure
from streamer.formats.records import count_records
from streamer.model import Dialect
from streamer.postgres.pool import Connection
from streamer.postgres.row_limit import RowSizeLimit, limited_rows
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
    """Hands the records of one query to `sink`, and returns their number.

    Raises what the sink has raised, and ExportFailure if any are missing, or one is too large.
    """
    quote = dialect.quote.encode()
    taken = 0

    async def take(page: bytearray) -> None:
        nonlocal taken
        meter.handed_over()
        rows = count_records(page, quote)
        taken += rows
        await sink(page, rows)
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, PAUSE)

    with limited_rows(connection, "a row is larger") as meter:
        copying = _Copying(take, meter)
        tag = await copying.run(
            connection.copy_from_query(
                sql,
                output=copying.take,
                format="csv",
                delimiter=dialect.delimiter,
                quote=dialect.quote,
                null=dialect.null,
            )
        )
    total = int(tag.removeprefix("COPY "))
    if taken != total:
        # asyncpg drops what is in its buffer when another message stands between two rows.
        raise ExportFailure(f"PostgreSQL sent {total} rows, of which {taken} arrived")
    return total


class _Copying:
    """One COPY in a task of its own, which never sees its sink fail, and is cancelled between two arrivals of rows."""

    def __init__(self, sink: Callable[[bytearray], Awaitable[None]], meter: RowSizeLimit) -> None:
        self._sink = sink
        self._meter = meter
        self._failure: BaseException | None = None  # of the sink
        self._task: asyncio.Task[str] | None = None

    async def run(self, copying: Coroutine[Any, Any, str]) -> str:
        """Returns the tag of the command."""
        self._task = asyncio.create_task(copying, name="COPY")
        self._task.add_done_callback(lambda _: self._meter.let_go())
        try:
            tag = await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._failure is None or not self._task.cancelled():
                self._end()
                await _ended(self._task)
                raise
        if self._failure is not None:
            raise self._failure
        return tag

    async def take(self, page: bytearray) -> None:
        try:
            await self._sink(page)
        except BaseException as failure:
            self._failure = failure
            self._end()

    def _end(self) -> None:
        """In the next turn of the event loop, in which rows that have arrived already are with the sink."""
        assert self._task is not None
        self._meter.hold()
        asyncio.get_running_loop().call_soon(self._task.cancel)


async def _ended(task: "asyncio.Task[Any]") -> None:
    """Returns when the task has ended, however often the caller is cancelled: its connection must be free then."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
