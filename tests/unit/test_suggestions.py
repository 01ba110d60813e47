"""What a client probably meant by a name that does not exist."""

import time

import pytest

from streamer.source.catalog.filters import unknown_key
from streamer.source.catalog.suggestions import comparison, listed, no_such, similar
from streamer.source.dataset import Column

NAMES = ("id", "email", "country_code", "signup_date", "lifetime_value")
COLUMNS = {
    "id": Column(name="id", declared="bigint", type="int8", length=None),
    "email": Column(name="email", declared="text", type="text", length=None, category="S"),
    "country_code": Column(name="country_code", declared="text", type="text", length=None, category="S"),
    "signup_date": Column(name="signup_date", declared="date", type="date", length=None),
    "lifetime_value": Column(name="lifetime_value", declared="numeric", type="numeric", length=None),
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("emial", "email"),
        ("Email", "email"),
        ("e_mail", "email"),
        ("country", "country_code"),
        ("countrycode", "country_code"),
        ("signupDate", "signup_date"),
        ("lifetime_valeu", "lifetime_value"),
        ("colour", None),
        ("", None),
        ("x", None),
        ("email" * 100, None),
    ],
)
def test_a_similar_name_is_suggested_and_no_other(name: str, meant: str | None) -> None:
    assert similar(name, NAMES) == meant


def test_a_suggestion_among_1600_columns_does_not_hold_the_event_loop() -> None:
    names = [f"column_number_{index}" for index in range(1600)]
    began = time.process_time()
    assert similar("colunm_number_77", names) is not None
    assert time.process_time() - began < 0.1  # seconds, on a slow machine


def test_a_missing_name_is_said_with_the_one_that_was_meant_or_with_all() -> None:
    assert no_such("column", "emial", NAMES) == "there is no column 'emial'; did you mean email?"
    assert no_such("column", "colour", NAMES[:2]) == "there is no column 'colour'; allowed are id, email"


def test_a_sentence_lists_some_of_many_names() -> None:
    assert listed("abc", max_names=3) == "a, b, c"
    assert listed("abcd", max_names=2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("lifetime_value>=500", "lifetime_value__gte=500"),
        ("lifetime_value=>500", "lifetime_value__gte=500"),
        ("lifetime_value>500", "lifetime_value__gt=500"),
        ("lifetime_value<=500", "lifetime_value__lte=500"),
        ("lifetime_value=<500", "lifetime_value__lte=500"),
        ("lifetime_value<500", "lifetime_value__lt=500"),
        ("lifetime_value!=500", "lifetime_value__ne=500"),
        ("lifetime_value<>500", "lifetime_value__ne=500"),
        ("lifetime_value==500", "lifetime_value=500"),
        ("lifetime_value >= 500 ", "lifetime_value__gte=500"),
        ("lifetime_value > 500", "lifetime_value__gt=500"),
        ("lifetime_value=500", None),
        ("lifetime_value", None),
        ("colour>500", None),
        (">500", None),
        ("", None),
        ("lifetime_value>" + "9" * 100, "lifetime_value__gt=" + "9" * 60 + "…"),
    ],
)
def test_a_comparison_is_written_as_a_parameter(text: str, meant: str | None) -> None:
    assert comparison(text, COLUMNS) == meant


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("emial", "unknown parameter; did you mean email?"),
        ("emial__ne", "unknown parameter; did you mean email__ne?"),
        ("lifetime_value_gte", "unknown parameter; did you mean lifetime_value__gte?"),
        ("order", "unknown parameter; did you mean order_by?"),
        ("lifetime_value>", "write lifetime_value__gte=1"),
        ("country_code__", "unknown operator __; text has: country_code, "),
    ],
)
def test_an_unknown_key_is_said_with_what_was_meant(name: str, sentence: str) -> None:
    found = unknown_key(name, f"{name}=1", COLUMNS, ("order_by", "limit"))
    assert found is not None
    assert found.startswith(sentence)


def test_an_unknown_operator_is_said_with_those_of_the_type() -> None:
    columns = {"lifetime_value": COLUMNS["lifetime_value"]}
    assert unknown_key("lifetime_value__like", "lifetime_value__like=1", columns, ()) == (
        "unknown operator __like; numeric has: lifetime_value, lifetime_value__ne, lifetime_value__gte,"
        " lifetime_value__gt, lifetime_value__lte, lifetime_value__lt, lifetime_value__isnull, lifetime_value__in"
    )


def test_nothing_is_suggested_for_a_name_like_none() -> None:
    assert unknown_key("colour", "colour=1", COLUMNS, ()) is None
