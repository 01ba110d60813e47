"""Does a text read as a value of a column's type? Answered before any job exists.

Each reader returns the text that goes to PostgreSQL as a quoted literal, or raises ValueError with what is allowed.
They accept a part of what PostgreSQL accepts, never more, so that a value which passes here cannot fail there. For the
many types that have no reader here PostgreSQL itself is asked: see checking.py.
"""

import math
import re
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from uuid import UUID

from streamer.errors import shown
from streamer.source.catalog import Column

INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TIME = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?"
MOMENT = re.compile(f"{DATE.pattern}([T ]{TIME})?")
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
LONGEST_NUMBER = 400  # characters; a double written out in full has 309 digits before its point
BOOLEANS = {"true": "true", "false": "false"}

Reader = Callable[[Column, str], str]


def read_value(column: Column, text: str) -> str:
    """`text` as a value of `column`. Raises ValueError with a sentence that says what is allowed."""
    reader = READERS.get(column.type)
    return read_text(text) if reader is None else reader(column, text)


def is_read_here(column: Column) -> bool:
    """Whether `read_value` knows the type, so that PostgreSQL need not be asked."""
    return column.type in READERS


def read_text(text: str) -> str:
    """Text that PostgreSQL can take, whatever it means there. Raises ValueError."""
    if "\0" in text or not _encodable(text):
        raise ValueError("must be valid Unicode text without NUL")
    return text


def read_truth(text: str) -> str:
    """`true` or `false`. Raises ValueError."""
    if text.lower() not in BOOLEANS:
        raise ValueError(f"must be true or false, not '{shown(text)}'")
    return BOOLEANS[text.lower()]


def is_date(text: str) -> bool:
    """Whether a moment is given as a day without a time."""
    return DATE.fullmatch(text) is not None


def _integer(bits: int, column: Column, text: str) -> str:
    limit = 1 << (bits - 1)
    if not INTEGER.fullmatch(text) or not -limit <= int(text) < limit:
        raise ValueError(f"must be a whole number from {-limit} to {limit - 1}, not '{shown(text)}'")
    return text


def _number(column: Column, text: str) -> str:
    if len(text) > LONGEST_NUMBER or not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"must be a finite decimal number, not '{shown(text)}'")
    return text


def _float(largest: float, smallest: float, column: Column, text: str) -> str:
    """PostgreSQL refuses what a float can only hold as infinity or as zero."""
    value = abs(float(_number(column, text)))
    if value > largest or (value < smallest and Decimal(text)):
        raise ValueError(f"must be a number of the size that {column.declared} can hold, not '{shown(text)}'")
    return text


def _text(column: Column, text: str) -> str:
    if column.length is not None and len(text) > column.length:
        raise ValueError(f"must have at most {column.length} characters, not {len(text)}")
    return read_text(text)


def _boolean(column: Column, text: str) -> str:
    return read_truth(text)


def _day(column: Column, text: str) -> str:
    try:
        return date.fromisoformat(_of_form(DATE, text)).isoformat()
    except ValueError:
        raise ValueError(f"must be a date such as 2024-12-31, not '{shown(text)}'") from None


def _moment(zoned: bool, column: Column, text: str) -> str:
    try:
        moment = datetime.fromisoformat(_of_form(MOMENT, text))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"must be a date or a time such as 2024-12-31 or 2024-12-31T23:59:59Z, not '{shown(text)}'"
        ) from None
    return moment.isoformat() if zoned else moment.replace(tzinfo=None).isoformat()


def _of_form(form: re.Pattern[str], text: str) -> str:
    """Python reads more forms than PostgreSQL does, and more than `is_date` knows."""
    if not form.fullmatch(text):
        raise ValueError(text)
    return text


def _uuid(column: Column, text: str) -> str:
    bare = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    if not UUID_TEXT.fullmatch(bare):
        raise ValueError(f"must be a UUID, not '{shown(text)}'")
    return str(UUID(bare))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


READERS: dict[str, Reader] = {
    "int2": partial(_integer, 16),
    "int4": partial(_integer, 32),
    "int8": partial(_integer, 64),
    "numeric": _number,
    "float4": partial(_float, 3.4028234e38, 1.5e-45),
    "float8": partial(_float, sys.float_info.max, 5e-324),
    "text": _text,
    "varchar": _text,
    "bpchar": _text,
    "bool": _boolean,
    "date": _day,
    "timestamp": partial(_moment, False),
    "timestamptz": partial(_moment, True),
    "uuid": _uuid,
}
