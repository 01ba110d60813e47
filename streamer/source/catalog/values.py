"""Parses texts as values of the type of a column, before an export exists.

Each reader returns the text that PostgreSQL gets as a quoted literal, and whether PostgreSQL certainly accepts it. If
not (`infinity`, a year BC, a number beyond a double, a letter that the encoding of the database may not have), and for
the many types that have no reader here, PostgreSQL itself is asked: see checking.py. A text that cannot be a value of
the type is a ValueError that says what is allowed.
"""

import math
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import NamedTuple
from uuid import UUID

from streamer.errors import shown
from streamer.source.catalog import moments
from streamer.source.dataset import Column

INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
# PostgreSQL writes the digits of an exponent out: three digits are the most that a list of 1,000 values may have.
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?0{0,9}[0-9]{1,3})?")
NOT_FINITE = re.compile(r"nan|[+-]?inf(inity)?", re.IGNORECASE)
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
MAX_NUMBER = 400  # characters; a double has up to 309 digits before its point
BOOL_WORDS = {"true": "true", "false": "false"}
BOOLEAN_INPUTS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), "true"),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), "false"),
}


class Value(NamedTuple):
    """A literal; `certain` means that PostgreSQL accepts it."""

    text: str
    certain: bool = True


Reader = Callable[[Column, str], Value]


def read_value(column: Column, text: str) -> str:
    """Returns `text` as a value of `column`. Raises ValueError with a sentence that says what is allowed."""
    reader = READERS.get(column.type)
    return read_text(text) if reader is None else reader(column, text).text


def is_certain(column: Column, value: str) -> bool:
    """Whether PostgreSQL certainly accepts what `read_value` has returned."""
    reader = READERS.get(column.type)
    return reader is not None and reader(column, value).certain


def read_text(text: str) -> str:
    """Returns the text if it can be sent to PostgreSQL. Raises ValueError."""
    if "\0" in text or not _encodable(text):
        raise ValueError("must be valid Unicode text without NUL")
    return text


def parse_bool(text: str) -> str:
    """Returns `true` or `false`. Raises ValueError."""
    if text.lower() not in BOOL_WORDS:
        raise ValueError(f"must be true or false, not '{shown(text)}'")
    return BOOL_WORDS[text.lower()]


def _integer(bits: int, column: Column, text: str) -> Value:
    limit = 1 << (bits - 1)
    if not INTEGER.fullmatch(text) or not -limit <= int(text) < limit:
        raise ValueError(f"must be a whole number from {-limit} to {limit - 1}, not '{shown(text)}'")
    return Value(text)


def _number(column: Column, text: str) -> Value:
    if NOT_FINITE.fullmatch(text):
        return Value(text, certain=False)
    if not NUMBER.fullmatch(text):
        raise ValueError(f"must be a decimal number, not '{shown(text)}'")
    return Value(text, certain=len(text) <= MAX_NUMBER and math.isfinite(float(text)))


def _float(largest: float, smallest: float, column: Column, text: str) -> Value:
    """PostgreSQL refuses a number that a float can only represent as infinity or zero."""
    number = _number(column, text)
    if not number.certain:
        return number
    size = abs(float(text))
    return Value(text, certain=size <= largest and (size >= smallest or not Decimal(text)))


def _text(column: Column, text: str) -> Value:
    """Text is certain if it is ASCII: the encoding of the database may lack other characters."""
    if column.length is not None and len(text) > column.length:
        raise ValueError(f"must have at most {column.length} characters, not {len(text)}")
    return Value(read_text(text), certain=text.isascii())


def _boolean(column: Column, text: str) -> Value:
    if text.lower() not in BOOLEAN_INPUTS:
        raise ValueError(f"must be true or false, not '{shown(text)}'")
    return Value(BOOLEAN_INPUTS[text.lower()])


def _day(column: Column, text: str) -> Value:
    try:
        day = moments.read_day(text)
    except ValueError as error:
        raise ValueError(f"must be a date such as 2024-12-31, not '{shown(text)}'") from error
    return Value(day, moments.is_plain(day))


def _moment(zoned: bool, column: Column, text: str) -> Value:
    try:
        moment = moments.read_moment(text, zoned=zoned)
    except ValueError as error:
        hint = "; in a URL a + is written as %2B" if moments.lacks_plus(text) else ""
        raise ValueError(
            f"must be a date or a time such as 2024-12-31 or 2024-12-31T23:59:59Z, not '{shown(text)}'{hint}"
        ) from error
    return Value(moment, moments.is_plain(moment))


def _uuid(column: Column, text: str) -> Value:
    bare = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    if not UUID_TEXT.fullmatch(bare):
        raise ValueError(f"must be a UUID, not '{shown(text)}'")
    return Value(str(UUID(bare)))


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
