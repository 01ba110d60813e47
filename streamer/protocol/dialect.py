"""CSV exactly as PostgreSQL's COPY writes it.

The source is the documentation of COPY, "CSV Format", and CopyAttributeOutCSV in src/backend/commands/copyto.c. A
cursor that cannot use COPY writes its records here, and the conformance suite holds both to the same bytes.

A record ends with one line feed. A field is quoted when it contains the delimiter, the quote, CR or LF, when it equals
the text for NULL (so by default the empty string is `""` and NULL is nothing), or when it is `\\.` alone on its line.
"""

from collections.abc import Iterable, Sequence

from streamer.model import Dialect

BOM = b"\xef\xbb\xbf"
LONGEST_NULL = 64  # characters
# Of what a spreadsheet takes for a formula, or may after it has trimmed it (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
SLICE = 64 * 1024  # bytes that are split at a time: a field of nothing but quotes has many pieces
END_OF_DATA = "\\."


def check_character(text: str) -> str:
    """Returns `text` if it can be a delimiter or a quote; raises ValueError with a sentence otherwise."""
    if len(text) != 1 or not text.isascii() or text == "\0":
        raise ValueError(f"must be exactly one ASCII character, or the word tab, not {text[:40]!a}")
    if text in "\r\n":
        raise ValueError("must not be a line break")
    return text


def check_null(text: str, delimiter: str, quote: str) -> str:
    """Returns `text` if it can stand for NULL; raises ValueError with a sentence otherwise.

    The rules are those of COPY's option NULL, and one more: `\\.` alone on a line ends what COPY reads.
    """
    if len(text) > LONGEST_NULL or not text.isprintable():
        raise ValueError(f"must be at most {LONGEST_NULL} printable characters")
    if delimiter in text or quote in text:
        raise ValueError("must not contain the delimiter or the quote")
    if text == END_OF_DATA:
        raise ValueError("must not be the end-of-data mark of COPY")
    return text


def prologue(dialect: Dialect, columns: Sequence[str]) -> bytes:
    """What stands before the first row: a byte order mark, the names of the columns, either, or nothing.

    A name is text as any: a spreadsheet would take one that begins with `=` for a formula.
    """
    escapes = FORMULA_STARTS if dialect.escape_formulas else ()
    names = [f"'{name}" if name.startswith(escapes) else name for name in columns]
    header = RecordWriter(dialect, len(names)).records([names]) if dialect.header else b""
    return BOM + header if dialect.bom else header


def count_records(chunk: bytes | bytearray, quote: bytes) -> int:
    """The number of records in a chunk that begins and ends at a record boundary.

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
    """The first `number` records of a chunk that has more. One record is looked at after the other, from the end."""
    end, surplus = len(chunk), count_records(chunk, quote) - number
    while surplus:
        end = _start_of_last(chunk, quote, end)
        surplus -= 1
    return chunk[:end]


def _start_of_last(chunk: bytes | bytearray, quote: bytes, end: int) -> int:
    """Where the last record of `chunk[:end]` begins: after the last line feed with whole quotes behind it."""
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
        """One record with its line feed; None is NULL."""
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
