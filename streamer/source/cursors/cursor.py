"""A cursor walks a query inside one snapshot and hands over CSV, page by page, always cut at a record boundary.

Pages are pushed: the cursor awaits its sink, and while the sink does not return the server is not read from. That is
the whole of back-pressure, for COPY as for FETCH. Every cursor gives the same bytes for the same query.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

Sink = Callable[[bytes | bytearray, int], Awaitable[None]]
"""Takes whole records and their number. What it is given is its own: the cursor never touches it again."""


class Cursor(Protocol):
    @property
    def expected(self) -> int:
        """Rows in all: the planner's estimate, or a better one."""
        ...

    async def drain(self, sink: Sink) -> int:
        """Hands every record of the query to `sink`, without the header, and returns their exact number."""
        ...
