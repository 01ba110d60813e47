"""Reads for the driver, between the transport of a connection and the protocol of the driver, and limits one row.

PostgreSQL sends a row as one message, and the driver buffers a message until it is complete, without a limit: a row of
a gigabyte would need a gigabyte of memory. `RowSizeLimit` counts the bytes that the driver receives, and closes the
connection if it has received too many since it last delivered rows. The driver delivers all complete rows of its buffer
together, so up to one read of the socket of other rows may precede the row that is counted. While a COPY runs, its
`CopyFraming` sees the same bytes.

All connections of an event loop read into one buffer, and the driver gets a copy of what has arrived: otherwise
asyncio allocates 256 kB for each read, and cuts off what was not needed.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from streamer.errors import ExportFailure
from streamer.postgres.copy_framing import CopyFraming

READ_SIZE = 192 * 1024  # bytes that are read from a socket at a time
READ_BUFFERS: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()
"""One for all connections of an event loop: each read is copied before the next."""


class RowSizeLimit(asyncio.BufferedProtocol):
    """Passes everything from `transport` on to `protocol`, and counts the bytes."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        self.max_bytes = sys.maxsize  # of one row
        self.active = False  # whether rows are being received
        self.exceeded = False
        self.framing: CopyFraming | None = None  # of the COPY that runs
        self._transport = transport
        self._protocol = protocol
        self._received = 0  # bytes since the driver last delivered rows
        self._held: list[bytes] | None = None  # received and not passed on yet; None unless holding
        transport.set_protocol(self)

    @contextmanager
    def enforced(self, too_large: str) -> Iterator["RowSizeLimit"]:
        """Enforces the limit on a query that runs in the context.

        Raises ExportFailure with a sentence that begins with `too_large` if a row exceeds the limit.
        """
        self.rows_delivered()
        self.active = True
        try:
            yield self
        except Exception as error:
            if self.exceeded:
                raise ExportFailure(
                    f"{too_large} than {self.max_bytes // 1024} kB, the most that MAX_ROW_SIZE allows"
                ) from error
            raise
        finally:
            self.active = False

    def rows_delivered(self) -> None:
        """Starts to count again: the driver buffers no more than the beginning of the next row."""
        self._received = 0

    def hold(self) -> None:
        """Withholds received data from the driver until `release`, which follows within a few loop iterations."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Passes the withheld data on."""
        held, self._held = self._held or [], None
        for data in held:
            self.data_received(data)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _read_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_read_buffer()[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Takes what has arrived."""
        if self._held is not None:
            self._held.append(data)
            return
        self._received += len(data)
        if self.active and self._received > self.max_bytes + READ_SIZE:
            self.exceeded = True
            self._transport.abort()
            return
        if self.framing is not None:
            self.framing.receive(data)
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


def _read_buffer() -> memoryview:
    """Returns that of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in READ_BUFFERS:
        READ_BUFFERS[loop] = memoryview(bytearray(READ_SIZE))
    return READ_BUFFERS[loop]
