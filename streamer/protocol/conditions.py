"""Preconditions: RFC 9110, 13. Validators are strong: the bytes of one representation never change.

The order of evaluation is that of 13.2.2, and the result is one of three.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from functools import lru_cache

# RFC 9110, 8.8.3. The opaque part may hold a comma, so a list cannot be split at commas.
# Octets beyond ASCII are allowed, and arrive decoded.
ENTITY_TAG = re.compile(r'(W/)?"([^\x00-\x20"\x7f]*)"')
SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
# RFC 9110, 5.6.7: one form to generate, and two obsolete ones to parse.
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY = f"(?:{'|'.join(DAYS)})"
LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
MONTH = f"(?P<month>{'|'.join(MONTHS)})"
DATES = (
    re.compile(rf"{DAY}, (?P<day>[0-9]{{2}}) {MONTH} (?P<year>[0-9]{{4}}) {CLOCK} GMT"),
    re.compile(rf"{LONG_DAY}, (?P<day>[0-9]{{2}})-{MONTH}-(?P<year>[0-9]{{2}}) {CLOCK} GMT"),
    re.compile(rf"{DAY} {MONTH} (?P<day>[ 0-9][0-9]) {CLOCK} (?P<year>[0-9]{{4}})"),
)


class Verdict(Enum):
    PROCEED = auto()
    NOT_MODIFIED = auto()  # 304
    FAILED = auto()  # 412


@dataclass(frozen=True, slots=True)
class Validators:
    """The selected representation's strong entity tag with its quotes, and its time in whole seconds, if known."""

    etag: str
    last_modified: datetime | None


def evaluate(headers: Mapping[str, str], validators: Validators, now: datetime) -> Verdict:
    """Evaluates the preconditions of a GET or HEAD request, except If-Range. `headers` has its names in lower case.

    A date that cannot be parsed is ignored (13.1.3, 13.1.4). `now` decides the century of a year of two digits.
    """
    if (tags := headers.get("if-match")) is not None:
        if not _matches(tags, validators.etag, weakly=False):
            return Verdict.FAILED
    elif (since := _date(headers.get("if-unmodified-since"), now)) and _modified_after(since, validators):
        return Verdict.FAILED
    if (tags := headers.get("if-none-match")) is not None:
        return Verdict.NOT_MODIFIED if _matches(tags, validators.etag, weakly=True) else Verdict.PROCEED
    since = _date(headers.get("if-modified-since"), now)
    if since and validators.last_modified and not _modified_after(since, validators):
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def range_applies(if_range: str | None, validators: Validators, now: datetime) -> bool:
    """Whether a Range field is honoured (13.1.5): the tag is strong and equal, or the date equals `last_modified`."""
    if if_range is None:
        return True
    if if_range.endswith('"'):
        return if_range == validators.etag
    return validators.last_modified is not None and _date(if_range, now) == validators.last_modified


@lru_cache(maxsize=256)  # the same for every range of one export
def http_date(moment: datetime) -> str:
    """Returns the moment as an IMF-fixdate (5.6.7)."""
    moment = moment.astimezone(UTC)
    return f"{DAYS[moment.weekday()]}, {moment:%d} {MONTHS[moment.month - 1]} {moment:%Y %H:%M:%S} GMT"


def parse_http_date(text: str, now: datetime) -> datetime | None:
    """Parses a date in any of the three forms; None if it is none."""
    for form in DATES:
        if found := form.fullmatch(text):
            return _moment(found.groupdict(), now)
    return None


def _date(text: str | None, now: datetime) -> datetime | None:
    return None if text is None else parse_http_date(text, now)


def _moment(parts: Mapping[str, str], now: datetime) -> datetime | None:
    try:
        if len(parts["year"]) == 4:
            return _moment_of(int(parts["year"]), parts)
        year = now.year - now.year % 100 + int(parts["year"])
        moment = _moment_of(year, parts)
        # RFC 9110, 5.6.7: a date more than 50 years in the future belongs to the century before.
        return _moment_of(year - 100, parts) if moment > _years_later(now, 50) else moment
    except ValueError:
        return None


def _moment_of(year: int, parts: Mapping[str, str]) -> datetime:
    second = 59 if parts["second"] == "60" else int(parts["second"])  # a leap second is the one before it
    month = MONTHS.index(parts["month"]) + 1
    return datetime(year, month, int(parts["day"]), int(parts["hour"]), int(parts["minute"]), second, tzinfo=UTC)


def _years_later(moment: datetime, years: int) -> datetime:
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:  # 29 February
        return moment.replace(year=moment.year + years, month=3, day=1)


def _modified_after(since: datetime, validators: Validators) -> bool:
    return validators.last_modified is not None and validators.last_modified > since


def _matches(field: str, etag: str, *, weakly: bool) -> bool:
    """Whether a list of entity tags, or `*`, matches the strong tag `etag` (8.8.3.2)."""
    if field.strip(" \t") == "*":
        return True
    opaque = etag[1:-1]
    return any(value == opaque and (weakly or not weak) for weak, value in _entity_tags(field))


def _entity_tags(field: str) -> list[tuple[bool, str]]:
    """(weak, opaque) of each tag up to the first syntax error."""
    tags = []
    position = len(field) - len(field.lstrip(" \t,"))
    while found := ENTITY_TAG.match(field, position):
        tags.append((found[1] is not None, found[2]))
        separator = SEPARATOR.match(field, found.end())
        if separator is None:
            break
        position = separator.end()
    return tags
