"""CSV exactly as PostgreSQL's COPY writes it.

The source is the documentation of COPY, "CSV Format", and CopyAttributeOutCSV in src/backend/commands/copyto.c. A
cursor that cannot use COPY writes its records here, and the conformance suite checks that both write the same bytes.

A record ends with one line feed. A field is quoted when it contains the delimiter, the quote, CR or LF, when it equals
the text for NULL (so by default the empty string is `""` and NULL is nothing), or when it is `\\.` alone on its line.
"""

from collections.abc import Sequence

from streamer.formats.records import END_OF_DATA, RecordWriter
from streamer.model import Dialect

BOM = b"\xef\xbb\xbf"
MAX_NULL = 64  # characters
# With these a spreadsheet takes a field for a formula, or may do so after trimming it (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


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
    if len(text) > MAX_NULL or not text.isprintable():
        raise ValueError(f"must be at most {MAX_NULL} printable characters")
    if delimiter in text or quote in text:
        raise ValueError("must not contain the delimiter or the quote")
    if text == END_OF_DATA:
        raise ValueError("must not be the end-of-data mark of COPY")
    return text


def prologue(dialect: Dialect, columns: Sequence[str]) -> bytes:
    """Returns the bytes before the first row: a byte order mark, the names of the columns, both, or neither.

    Names are escaped like fields: a spreadsheet would take a name that begins with `=` for a formula.
    """
    escapes = FORMULA_STARTS if dialect.escape_formulas else ()
    names = [f"'{name}" if name.startswith(escapes) else name for name in columns]
    header = RecordWriter(dialect, len(names)).records([names]) if dialect.header else b""
    return BOM + header if dialect.bom else header
