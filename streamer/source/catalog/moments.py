"""Dates and timestamps, as PostgreSQL prints them and as programs write them, converted to one form.

The year comes first, in ISO 8601 or in the form of COPY: `2024-12-31T23:59:59.1234567Z`, `0044-03-15 12:00:00+00 BC`,
`12024-01-01`, `infinity`. No other form is accepted, because the meaning of `01/02/2024` depends on the country, and
that of `yesterday` on the day. A timestamp is converted to UTC here: PostgreSQL ignores the zone of a timestamp without
time zone.

Years outside of the range of datetime are supported: the Gregorian calendar repeats every 400 years, so any year has
the calendar of one from 2000 to 2399.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

CYCLE = 400  # years after which the calendar repeats
STAND_IN = 2000  # the first year of a cycle within the range of datetime, with room on both sides
DAY = r"(?P<year>[0-9]{4,7})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,30}))?)?"
ZONE = r"(?:(?P<utc>[Zz])|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2})(?::?(?P<seconds>[0-9]{2}))?)?)"
ERA = r"(?P<bc> BC)?"
DATE = re.compile(DAY + ERA)
MOMENT = re.compile(f"{DAY}(?:[Tt ]{CLOCK}{ZONE}?)?{ERA}")
INFINITY = re.compile(r"-?infinity", re.IGNORECASE)
PLAIN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?(\+00:00)?)?")
CALENDAR = ("month", "day", "hour", "minute", "second")

Parts = Mapping[str, str | None]


def is_date(text: str) -> bool:
    """Whether a text is a date without a time."""
    return DATE.fullmatch(text) is not None


def is_plain(text: str) -> bool:
    """Whether PostgreSQL certainly accepts what `read_day` or `read_moment` has returned."""
    return PLAIN.fullmatch(text) is not None


def lacks_plus(text: str) -> bool:
    """Whether a text is a timestamp whose plus sign has become a space, as in the query of a URL."""
    return MOMENT.fullmatch("+".join(text.rsplit(" ", 1))) is not None


def read_day(text: str) -> str:
    """Returns a date in one form. Raises ValueError."""
    if INFINITY.fullmatch(text):
        return text.lower()
    return _written(*_read(_parts(DATE, text)), form="%m-%d")


def next_day(text: str) -> str:
    """Returns the day after a date. Raises ValueError."""
    moment, years = _read(_parts(DATE, text))
    return _written(moment + timedelta(days=1), years, form="%m-%d")


def read_moment(text: str, *, zoned: bool) -> str:
    """Returns a timestamp in UTC, with an offset if the type is `zoned`. Raises ValueError.

    A timestamp without a zone is in UTC.
    """
    if INFINITY.fullmatch(text):
        return text.lower()
    parts = _parts(MOMENT, text)
    moment, years = _read(parts)
    form = f"%m-%dT%H:%M:%S{_fraction(parts)}{'+00:00' if zoned else ''}"
    return _written(moment.replace(tzinfo=_zone(parts)).astimezone(UTC), years, form=form)


def _parts(form: re.Pattern[str], text: str) -> Parts:
    found = form.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return found.groupdict()


def _read(parts: Parts) -> tuple[datetime, int]:
    """Returns a datetime of the first cycle, and the years from there to the year of the text."""
    year = _number(parts, "year")
    if not year:
        raise ValueError("there is no year 0")
    if parts["bc"]:
        year = 1 - year
    stand_in = STAND_IN + year % CYCLE
    month, day, hour, minute, second = (_number(parts, name) for name in CALENDAR)
    return datetime(stand_in, month, day, hour, minute, second), year - stand_in


def _written(moment: datetime, years: int, *, form: str) -> str:
    year = moment.year + years
    return f"{year:04}-{moment:{form}}" if year > 0 else f"{1 - year:04}-{moment:{form}} BC"


def _fraction(parts: Parts) -> str:
    """Returns at least six digits; PostgreSQL rounds longer fractions."""
    digits = (parts["fraction"] or "").rstrip("0")
    return f".{digits.ljust(6, '0')}" if digits else ""


def _zone(parts: Parts) -> timezone:
    if parts["sign"] is None:
        return UTC
    hours, minutes, seconds = (_number(parts, name) for name in ("hours", "minutes", "seconds"))
    if minutes > 59 or seconds > 59:
        raise ValueError("an offset has at most 59 minutes and 59 seconds")
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(-offset if parts["sign"] == "-" else offset)


def _number(parts: Parts, name: str) -> int:
    return int(parts.get(name) or 0)
