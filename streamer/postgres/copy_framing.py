"""Counts the rows of a COPY by the bytes of its messages, without reading the rows.

PostgreSQL sends each row of a COPY as one CopyData message (documentation, 54.2.7): a header of 5 bytes and the row. So
the whole CopyData messages that have arrived, without the rows that the driver has delivered, are 5 bytes for each row.
This is exact whenever the driver delivers, because it delivers every whole row that has arrived. If the driver drops
rows, or the server does not send one, the numbers do not add up.

What has arrived may end within a message. The last CopyData message that has begun is found from the end, without a
look at those before it: the first byte of its length is zero, as that of every message below 16 MB, and a row in CSV
has no zero byte, because the output of every type is a C string. A larger row is found by the end of the message before
it. Messages of other types, before the rows and after them, are read one by one.

A message of another type between two rows may be counted as a row, or hide a row. In both cases the bytes do not add up
in the end, and the COPY fails.
"""

from streamer.errors import ExportFailure

HEADER = 5  # bytes: the type of a message, and the length of the rest with the four bytes of itself
COPY_DATA = ord("d")
ROWS_MISSING = "rows that PostgreSQL sent did not arrive"
ROW_BOUNDARY = b"\nd\0"  # the end of a row, and the beginning of the next CopyData message


class CopyFraming:
    """The messages of one COPY, from its first byte on."""

    def __init__(self) -> None:
        self.rows = 0  # delivered
        self._delivered = 0  # bytes
        self._received = 0  # bytes of all messages
        self._end = 0  # where the last message ends whose header has arrived; it may end in data to come
        self._before_last = 0  # bytes of the CopyData messages before that message
        self._with_last = 0  # bytes of the CopyData messages up to its end
        self._header = b""  # what has arrived of the header after it

    def receive(self, data: bytes) -> None:
        """Takes data as it came from the server, before the driver has it."""
        start = self._received
        self._received += len(data)
        sought = False
        while self._end + HEADER <= self._received:
            header = self._take_header(data, self._end - start)
            if header[0] == COPY_DATA and not sought:
                sought = True
                if last := last_row(data):
                    self._skip_to(start + last)
                    continue
            size = 1 + int.from_bytes(header[1:], "big")
            self._before_last = self._with_last
            self._with_last += size if header[0] == COPY_DATA else 0
            self._end += size
        if self._end < self._received:
            self._header += data[max(self._end - start, 0) :]

    def finish(self, sent: int) -> None:
        """Raises ExportFailure if other rows were delivered than the server has sent, by the tag of its command."""
        self.deliver(b"")
        if self.rows != sent:
            raise ExportFailure(ROWS_MISSING)

    def deliver(self, chunk: bytes | bytearray) -> int:
        """Returns the number of rows of a chunk, which has all rows that have arrived and were not delivered before.

        Raises ExportFailure if the bytes are not those of whole rows.
        """
        self._delivered += len(chunk)
        whole = self._with_last if self._end <= self._received else self._before_last
        rows, rest = divmod(whole - self._delivered, HEADER)
        if rest or rows < self.rows:
            raise ExportFailure(ROWS_MISSING)
        before, self.rows = self.rows, rows
        return rows - before

    def _take_header(self, data: bytes, at: int) -> bytes:
        """Returns the header at an index of the data, which is negative if the header began in the data before."""
        if at >= 0:
            return data[at : at + HEADER]
        header, self._header = self._header + data[: HEADER + at], b""
        return header

    def _skip_to(self, end: int) -> None:
        """Takes everything up to there for CopyData messages."""
        self._with_last += end - self._end
        self._end = end


def last_row(data: bytes) -> int:
    """Returns the index of the last CopyData message that begins in `data` after another one; 0 if there is none."""
    at = data.rfind(ROW_BOUNDARY)
    if at >= 2 and data[at - 2 : at] == b"d\0":  # these three bytes are a part of the length 0x000A6400
        return at - 2
    return at + 1
