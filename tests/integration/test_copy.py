"""COPY on a real connection: the pause between its pages."""

from itertools import pairwise
from time import perf_counter

from streamer.model import Dialect
from streamer.source.cursors.copy import copy
from streamer.source.cursors.pacing import FULL, MAX_PAUSE, Pacing
from tests.integration.sources import pooled

ROWS = 300_000
SQL = f"SELECT n, repeat('x', 50) AS words FROM generate_series(1, {ROWS}) AS n"
SOCKET_FILLS = 0.0002  # seconds


class Sink:
    """Measures the time from each page to the next, and notes whether the page had filled the socket."""

    def __init__(self) -> None:
        self.intervals: list[tuple[float, bool]] = []
        self._last: tuple[float, bool] | None = None

    async def take(self, page: bytes | bytearray, rows: int) -> None:
        if self._last is not None:
            taken, full = self._last
            self.intervals.append((perf_counter() - taken, full))
        self._last = perf_counter(), len(page) >= FULL


async def test_socket_has_time_to_fill_between_two_pages(database: str) -> None:
    """The driver by itself hands over pages of some 9 KB, each at the cost of an iteration of the event loop.

    The size of a page depends on the load of the machine, the shortest interval does not. There is no pause after a
    page that was waited for, or that had filled the socket.
    """
    sink = Sink()
    async with pooled(database) as pool, pool.acquire() as connection:
        assert await copy(connection, SQL, Dialect(), sink.take, Pacing()) == ROWS
    assert len(sink.intervals) > 10
    after_quick = [
        interval for (before, _), (interval, full) in pairwise(sink.intervals) if before < MAX_PAUSE and not full
    ]
    assert min(after_quick, default=SOCKET_FILLS) >= SOCKET_FILLS
