"""Durations in settings, parameters and sentences: 90, 60s, 5m, 24h or 7d."""

import re
from datetime import timedelta

GRAMMAR = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
WRITTEN = (("d", 86_400), ("h", 3600), ("m", 60))  # a multiple of none of these is written in seconds
MAX_DURATION = timedelta(days=1_000_000)  # from any moment of this millennium to a date of Python and PostgreSQL


def read_duration(text: str) -> timedelta:
    """Parses a duration to the microsecond; in seconds without a unit. Raises ValueError with the expected form."""
    found = GRAMMAR.fullmatch(text.strip())
    if not found:
        raise ValueError("a duration such as 60s, 5m or 24h")
    try:
        duration = timedelta(**{UNITS[found[2] or "s"]: float(found[1])})
    except OverflowError:
        duration = timedelta.max
    if duration > MAX_DURATION:
        raise ValueError("a duration that a calendar can hold")
    return duration


def written_duration(duration: timedelta) -> str:
    """Returns the duration in the largest unit of which it is a multiple."""
    for unit, seconds in WRITTEN:
        if duration and not duration % timedelta(seconds=seconds):
            return f"{duration // timedelta(seconds=seconds)}{unit}"
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
