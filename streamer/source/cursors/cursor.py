"""A cursor reads the rows of a query in one snapshot, and passes them on as CSV in chunks of whole records.

Chunks are pushed: the cursor awaits its sink, and does not read from the server until the sink returns. This is the
backpressure of every cursor. All cursors produce the same bytes for the same query.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

Sink = Callable[[bytes | bytearray, int], Awaitable[None]]
"""Takes a chunk of whole records and their number. The cursor does not use the chunk again."""


class Cursor(Protocol):
    @property
    def expected(self) -> int:
        """The expected number of rows in all: the planner's estimate, or a better one."""
        ...

    async def drain(self, sink: Sink) -> int:
        """Passes every record of the query to `sink`, without the header, and returns their exact number."""
        ...
