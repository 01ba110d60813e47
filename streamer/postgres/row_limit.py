"""How much the driver is holding: the limit on one row.

PostgreSQL sends a row as one message, and the driver gathers a message whole before it hands it over. A row of a
gigabyte would so be a gigabyte of memory. Nothing in the driver limits that, so what goes into it is counted, and a
connection on which too much has come in since the last hand-over is closed. What comes in together is handed over
together, so a row may have up to a chunk of others before it.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import asyncpg

from streamer.errors import ExportFailure

CHUNK = 256 * 1024  # bytes that asyncio asks of a socket at a time: so many of other rows may stand before a row


class RowSizeLimit(asyncio.Protocol):
    """Stands between a transport and the driver's protocol, and counts."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        self.limit = sys.maxsize  # bytes of a row
        self.active = False  # while rows come in
        self.exceeded = False
        self._transport = transport
        self._protocol = protocol
        self._received = 0  # bytes since the last hand-over
        self._held: list[bytes] | None = None  # what the driver is not to see yet
        transport.set_protocol(self)

    def handed_over(self) -> None:
        """The driver holds nothing any more but the beginning of the next row."""
        self._received = 0

    def hold(self) -> None:
        """From now on the driver is given nothing, until `let_go`: for a few turns of the event loop."""
        if self._held is None:
            self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        for data in held:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
            return
        self._received += len(data)
        if self.active and self._received > self.limit + CHUNK:
            self.exceeded = True
            self._transport.abort()
        else:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._held = None
        self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class LimitedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection with a meter on what comes in.

    Without `resets` nothing of the session is put back, which takes a round trip: where no statement leaves anything.
    """

    __slots__ = ("meter", "resets")

    def __init__(self, protocol: Any, transport: Any, *configuration: Any) -> None:
        super().__init__(protocol, transport, *configuration)
        self.meter = RowSizeLimit(transport, protocol)
        self.resets = True

    def get_reset_query(self) -> str:
        """What the pool has executed before another one gets the connection."""
        return str(super().get_reset_query()) if self.resets else ""


@contextmanager
def limited_rows(
    connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]", too_large: str
) -> Iterator[RowSizeLimit]:
    """A query whose rows come in within. Raises ExportFailure with a sentence if they are `too_large`."""
    connection.is_closed()  # raises InterfaceError where the pool has let go of it: there is no meter then
    meter = cast("RowSizeLimit", connection.meter)
    meter.handed_over()
    meter.active = True
    try:
        yield meter
    except Exception as error:
        if meter.exceeded:
            raise ExportFailure(
                f"{too_large} than {meter.limit // 1024} kB, the most that MAX_ROW_SIZE allows"
            ) from error
        raise
    finally:
        meter.active = False
