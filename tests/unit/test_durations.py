"""Durations: parsing, formatting, and parsing the formatted text back."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.durations import MAX_DURATION, read_duration, written_duration


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0", "0s"), ("90", "90s"), ("60s", "1m"), ("5m", "5m"), ("90m", "90m"), ("24h", "1d"), ("36h", "36h"),
        ("7d", "7d"), ("0.5", "0.5s"), ("1ms", "0.001s"), ("1.5m", "90s"), ("1000000d", "1000000d"),
    ],
)  # fmt: skip
def test_duration_is_formatted_in_the_largest_unit_that_divides_it(text: str, written: str) -> None:
    assert written_duration(read_duration(text)) == written


@given(st.timedeltas(timedelta(), MAX_DURATION))
def test_formatted_duration_is_parsed_back(duration: timedelta) -> None:
    found = read_duration(written_duration(duration))
    assert abs(found - duration) <= duration * 1e-15 + timedelta(microseconds=1) * (duration > timedelta(days=36_500))


@pytest.mark.parametrize("text", ["", "x", "-1", "1w", "1e3", ".5", "5 m", "\u0665m", "1000001d", "9" * 400])
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a duration "):
        read_duration(text)
