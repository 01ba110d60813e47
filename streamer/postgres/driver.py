"""Every use of asyncpg that goes beyond its documented interface.

pyproject.toml pins asyncpg to one minor version, and tests/integration/test_asyncpg_internals.py has a test for each of
these assumptions:

- `connect` calls its connection class with the protocol and the transport first, and data that arrives on the transport
  goes to the protocol that `set_protocol` names. The connection that a pool lends has the attributes of the class.
- The output of a COPY is called with all complete CopyData messages of the buffer as one bytearray that the driver does
  not use again. A message is a record, so a chunk ends at a record boundary.
- A COPY that is cancelled while the driver waits for rows sends a CancelRequest, and the next statement on the
  connection waits until the server has obeyed. The driver sends none if it is cancelled in the iteration of the event
  loop in which rows arrive, and fails at the next message. If the output of a COPY fails at the last rows, the driver
  waits for the end of a statement that has ended. So a COPY is ended early only between two arrivals: see `_Copy`.
- When the output of a COPY is called, the driver has got no data since it made the chunk, and the chunk has every whole
  row of its buffer: so `CopyFraming` counts rows by their messages. A message between two rows makes the driver
  drop the rows before it. `copy_out` finds that out; the settings of a snapshot suppress notices.
- A server that refuses TLS is a ConnectionError with a certain text.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, cast

import asyncpg

from streamer.model import Dialect
from streamer.postgres.copy_framing import CopyFraming
from streamer.postgres.row_limit import RowSizeLimit

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Output = Callable[[bytearray, int], Awaitable[None]]

TLS_REFUSED = "rejected SSL upgrade"


class LimitedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection with a limit on the size of a row.

    Without `resets` the pool does not reset the session after use, which saves a round trip: for statements that change
    nothing in their session.
    """

    __slots__ = ("resets", "row_size_limit")

    def __init__(self, protocol: Any, transport: Any, *configuration: Any) -> None:
        super().__init__(protocol, transport, *configuration)
        self.row_size_limit = RowSizeLimit(transport, protocol)
        self.resets = True

    def get_reset_query(self) -> str:
        """Returns the SQL that the pool executes when it takes the connection back."""
        return str(super().get_reset_query()) if self.resets else ""


def row_size_limit(connection: Connection) -> RowSizeLimit:
    """Returns the limit of a connection. Raises InterfaceError if the pool has taken the connection back."""
    connection.is_closed()  # raises InterfaceError, where an attribute would be an AttributeError
    return cast("RowSizeLimit", connection.row_size_limit)


def is_tls_refusal(error: BaseException) -> bool:
    """Whether the server has no TLS."""
    return type(error) is ConnectionError and TLS_REFUSED in str(error)


async def copy_out(connection: Connection, sql: str, dialect: Dialect, output: Output) -> int:
    """Passes the CSV of a query to `output`, as chunks of whole records with their number. Returns the number of all.

    Raises what `output` raises, and ExportFailure if rows are missing. The server does not run the statement any more
    when this returns, raises or is cancelled.
    """
    copy = _Copy(output, row_size_limit(connection))
    tag = await copy.run(
        connection.copy_from_query(
            sql,
            output=copy.take,
            format="csv",
            delimiter=dialect.delimiter,
            quote=dialect.quote,
            null=dialect.null,
        )
    )
    sent = int(tag.removeprefix("COPY "))
    copy.framing.finish(sent)
    return sent


class _Copy:
    """One COPY in a task of its own, whose output never fails, and which is cancelled between two arrivals of rows."""

    def __init__(self, output: Output, limit: RowSizeLimit) -> None:
        self._output = output
        self._limit = limit
        self.framing = limit.framing = CopyFraming()
        self._failure: BaseException | None = None  # of the output
        self._task: asyncio.Task[str] | None = None

    async def run(self, copying: Coroutine[Any, Any, str]) -> str:
        """Returns the command tag."""
        self._task = asyncio.create_task(copying, name="COPY")
        self._task.add_done_callback(lambda _: self._ended())
        try:
            tag = await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if not self._task.done():  # a task that is done has released the data, and nothing would release it again
                self._cancel()
                await _wait_ended(self._task)
                raise
            if self._failure is None or not self._task.cancelled():
                raise
        if self._failure is not None:
            raise self._failure
        return tag

    def _ended(self) -> None:
        self._limit.release()
        self._limit.framing = None

    async def take(self, chunk: bytearray) -> None:
        """Passes a chunk to the output."""
        try:
            await self._output(chunk, self.framing.deliver(chunk))
        except BaseException as failure:
            self._failure = failure
            self._cancel()

    def _cancel(self) -> None:
        """Cancels in the next iteration of the event loop: the output has then got the rows that have arrived."""
        assert self._task is not None
        self._limit.hold()
        asyncio.get_running_loop().call_soon(self._task.cancel)


async def _wait_ended(task: "asyncio.Task[Any]") -> None:
    """Returns when the task has ended, however often the caller is cancelled: its connection must be free then."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
