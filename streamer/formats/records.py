"""Writing, counting and cutting records of CSV exactly as COPY writes them."""

from collections.abc import Iterable, Sequence

from streamer.model import Dialect

SLICE = 64 * 1024  # bytes that are split at a time: a field of nothing but quotes has many pieces
END_OF_DATA = "\\."


def count_records(chunk: bytes | bytearray, quote: bytes) -> int:
    """Returns the number of records in a chunk that begins and ends at a record boundary.

    A line feed between quotes belongs to a field. A doubled quote opens and closes an empty piece, so the parity holds.
    """
    records = chunk.count(b"\n")
    if quote in chunk:
        inside = False
        for start in range(0, len(chunk), SLICE):
            pieces = bytes(chunk[start : start + SLICE]).split(quote)
            records -= b"".join(pieces[not inside :: 2]).count(b"\n")
            inside ^= len(pieces) % 2 == 0
    return records


def first_records(chunk: bytes | bytearray, quote: bytes, number: int) -> bytes | bytearray:
    """Returns the first `number` records of a chunk that has more. Removes one record after the other from the end."""
    end, surplus = len(chunk), count_records(chunk, quote) - number
    while surplus:
        end = _start_of_last(chunk, quote, end)
        surplus -= 1
    return chunk[:end]


def _start_of_last(chunk: bytes | bytearray, quote: bytes, end: int) -> int:
    """The start of the last record of `chunk[:end]`: after the last line feed followed by an even number of quotes."""
    start, quotes = end - 1, 0
    while (before := chunk.rfind(b"\n", 0, start)) >= 0:
        quotes += chunk.count(quote, before, start)
        if quotes % 2 == 0:
            return before + 1
        start = before
    return 0


class RecordWriter:
    """Writes records of one dialect, for a query of `width` columns."""

    def __init__(self, dialect: Dialect, width: int) -> None:
        self._delimiter = dialect.delimiter
        self._quote = dialect.quote
        self._null = dialect.null
        self._doubled = dialect.quote * 2
        self._special = (dialect.delimiter, dialect.quote, "\n", "\r")
        self._alone = width == 1

    def record(self, fields: Sequence[str | None]) -> str:
        """Returns one record with its line feed; None is NULL."""
        return self._delimiter.join(map(self._field, fields)) + "\n"

    def records(self, rows: Iterable[Sequence[str | None]]) -> bytes:
        return "".join(map(self.record, rows)).encode()

    def _field(self, text: str | None) -> str:
        if text is None:
            return self._null
        if self._needs_quotes(text):
            return self._quote + text.replace(self._quote, self._doubled) + self._quote
        return text

    def _needs_quotes(self, text: str) -> bool:
        if text == self._null or (self._alone and text == END_OF_DATA):
            return True
        return any(special in text for special in self._special)
