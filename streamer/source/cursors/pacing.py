"""The pauses between two chunks of a COPY, in which the socket fills.

The driver delivers all rows that have arrived as one chunk. Without a pause the chunks have some 9 kB, each with
iterations of the event loop of its own. How long a pause must be depends on the rate of the connection, which changes
with the rows and with the load of the machine. So its length follows the size of the chunks: they should be large, and
smaller than what the socket holds (some 200 kB), because PostgreSQL stops when it is full.

A pause is of no use if the rows come slower than they are read: the driver has waited for such a chunk, and the next
one is read at once. Nor after a chunk of all that a socket holds: PostgreSQL has stopped, and goes on when it is read.
"""

MIN_PAUSE, MAX_PAUSE = 0.00025, 0.001  # seconds
TARGET = 160 * 1024  # bytes of a chunk
FULL = 176 * 1024  # bytes of a chunk that has filled the socket, or the buffer that it is read into


class Pacing:
    """The pauses of one connection, for any number of COPYs of rows of the same kind."""

    def __init__(self) -> None:
        self._seconds = MIN_PAUSE
        self._paused = True  # before this chunk; the size of another says nothing about the pause

    def pause(self, size: int, waited: float) -> float:
        """Returns the seconds until the next read, after a chunk of `size` bytes that was waited for that long."""
        if waited > MAX_PAUSE:
            self._seconds = MIN_PAUSE
            return 0.0
        if size >= FULL:
            self._seconds, self._paused = max(self._seconds / 2, MIN_PAUSE), False
            return 0.0
        if self._paused:
            self._seconds = min(max(self._seconds * TARGET / size, MIN_PAUSE), MAX_PAUSE)
        self._paused = True
        return self._seconds
