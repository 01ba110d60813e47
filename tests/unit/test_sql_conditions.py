"""Conditions that are written as in SQL are refused with the right spelling, before anything is sent."""

import click
import pytest

from streamer.commands.conditions import parse_conditions, parse_pairs


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("lifetime_value>=500", "lifetime_value__gte=500"),
        ("lifetime_value>500", "lifetime_value__gt=500"),
        ("lifetime_value<=500", "lifetime_value__lte=500"),
        ("lifetime_value < 500", "lifetime_value__lt=500"),
        ("lifetime_value!=500", "lifetime_value__ne=500"),
        ("lifetime_value <> 500", "lifetime_value__ne=500"),
        ("lifetime_value==500", "lifetime_value=500"),
        ("name>=two words", "'name__gte=two words'"),
        ("country_code = US", "country_code=US"),
        ("country_code is null", "country_code__isnull=true"),
        ("country_code IS NOT NULL", "country_code__isnull=false"),
    ],
)
def test_a_condition_of_sql_is_refused_with_its_spelling(text: str, spelling: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse_conditions((text,))
    assert caught.value.message == f"instead of {text}, write {spelling}"


@pytest.mark.parametrize("text", ["", "country_code", "=US", " =US", "id in (1, 2)"])
def test_a_text_that_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"country_code=US or lifetime_value__gte=500"):
        parse_conditions((text,))


@pytest.mark.parametrize("value", ["", "x", "a=b", ">5", "<b>", "a>=b", "a == b", " is null", "!="])
def test_a_value_may_have_operators_in_it(value: str) -> None:
    assert parse_conditions((f"name={value}",)) == {"name": value}


def test_several_values_of_one_column_are_a_list() -> None:
    assert parse_conditions(("a=1", "b=2", "a=3")) == {"a": ["1", "3"], "b": "2"}


def test_a_column_whose_name_looks_like_an_operator_can_be_given_with_set() -> None:
    assert parse_pairs(("a>b__in=5",)) == {"a>b__in": "5"}
