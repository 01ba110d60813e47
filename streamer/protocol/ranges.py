"""Byte ranges: RFC 9110, 14, and RFC 8673 for a representation that still grows.

`select` knows the length of the representation: it returns the slices of a sealed export. `select_live` does not: it
returns the range that can be answered before the length is known. A field that cannot be parsed is ignored as RFC 9110,
14.2 requires: the response is the whole representation, never a part that the client did not request.

Parsing is linear in the length of the field; positions are integers of any size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MAX_RANGES = 8  # more than these in one request is an attack or a mistake (RFC 9110, 17.15)
OPEN_END = 9007199254740991  # RFC 8673, 3.2: 2^53-1 stands for a last position that is not known yet

# RFC 9110, 14.1.1. White space is allowed around a member of the list (5.6.1), never inside it.
UNIT = re.compile(r"bytes=(.*)", re.IGNORECASE | re.ASCII | re.DOTALL)
RANGE_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
OWS = " \t"
MAX_DIGITS = 4000  # Python parses a few more; a longer number counts as the largest one


class Slice(NamedTuple):
    """The bytes `[start, stop)`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Positions(NamedTuple):
    """A range as the client wrote it: first and last position, both inclusive; no `last` means to the end."""

    first: int
    last: int | None


class Suffix(NamedTuple):
    """The last `length` bytes."""

    length: int


RangeSpec = Positions | Suffix


@dataclass(frozen=True, slots=True)
class Whole:
    """There is no range, or it is ignored."""


@dataclass(frozen=True, slots=True)
class Slices:
    """206: one slice, or several for multipart/byteranges, in the order of the request."""

    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: no byte of the requested ranges exists."""


def parse(field: str | None) -> tuple[RangeSpec, ...] | None:
    """Parses a Range field; None without a field, or if it cannot be parsed."""
    unit = UNIT.fullmatch(field) if field is not None else None
    if unit is None:
        return None
    specs = [_parse_spec(member) for text in unit[1].split(",") if (member := text.strip(OWS))]
    if not specs or None in specs:
        return None
    return tuple(spec for spec in specs if spec is not None)


def _parse_spec(text: str) -> RangeSpec | None:
    found = RANGE_SPEC.fullmatch(text)
    if found is None or text == "-":
        return None
    first, last = found.groups()
    if not first:
        return Suffix(_number(last))
    # RFC 9110, 14.1.1: an int-range is invalid if its last-pos is less than its first-pos.
    if last and _magnitude(last) < _magnitude(first):
        return None
    return Positions(_number(first), _number(last) if last else None)


def _magnitude(digits: str) -> tuple[int, str]:
    """A sort key for numbers of any length."""
    significant = digits.lstrip("0")
    return len(significant), significant


def _number(digits: str) -> int:
    length, significant = _magnitude(digits)
    return int(significant or "0") if length <= MAX_DIGITS else 10**MAX_DIGITS


def select(field: str | None, length: int) -> Whole | Slices | Unsatisfiable:
    """Returns what a Range field selects of a representation of `length` bytes."""
    specs = parse(field)
    if specs is None or len(specs) > MAX_RANGES:
        return Whole()
    slices = [found for spec in specs if (found := _resolve(spec, length)) is not None]
    if not slices:
        # RFC 9110, 14.1.2: a suffix of an empty representation is satisfiable, but no Content-Range can express it.
        suffix = not length and any(isinstance(spec, Suffix) and spec.length for spec in specs)
        return Whole() if suffix else Unsatisfiable()
    if _overlap(slices):
        return Whole()
    return Slices(tuple(_join_adjacent(slices)))


def _resolve(spec: RangeSpec, length: int) -> Slice | None:
    """RFC 9110, 14.1.2; None if the range is not satisfiable."""
    if isinstance(spec, Suffix):
        start, stop = max(0, length - spec.length), length
    else:
        start, stop = spec.first, length if spec.last is None else min(spec.last + 1, length)
    return Slice(start, stop) if start < stop else None


def _overlap(slices: Sequence[Slice]) -> bool:
    ordered = sorted(slices)
    return any(after.start < before.stop for before, after in pairwise(ordered))


def _join_adjacent(slices: Sequence[Slice]) -> list[Slice]:
    joined = [slices[0]]
    for piece in slices[1:]:
        if piece.start == joined[-1].stop:
            joined[-1] = Slice(joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return joined


def select_live(field: str | None, *, conditional: bool) -> Whole | Positions:
    """Returns what a Range field selects of a representation that still grows.

    `conditional` means that the request had an If-Range, and it holds. A suffix is not known yet, and several ranges
    cannot be framed. An open range with an If-Range comes from a browser, which cannot parse a Content-Range without a
    length: it gets the whole representation.
    """
    specs = parse(field)
    if specs is None or len(specs) != 1 or isinstance(specs[0], Suffix):
        return Whole()
    if conditional and specs[0].last is None:
        return Whole()
    if specs[0].last == 10**MAX_DIGITS:
        return Whole()  # Content-Range could not repeat it as the client wrote it
    return specs[0]


def content_range(piece: Slice, length: int) -> str:
    """Returns the Content-Range of a slice of a representation of known length (RFC 9110, 14.4)."""
    return f"bytes {piece.start}-{piece.stop - 1}/{length}"


def live_content_range(positions: Positions) -> str:
    """Returns the Content-Range while the length is not known; an open end is expressed as in RFC 8673, 3.2."""
    return f"bytes {positions.first}-{OPEN_END if positions.last is None else positions.last}/*"


def unsatisfied_range(length: int) -> str:
    """Returns the Content-Range of a 416."""
    return f"bytes */{length}"
