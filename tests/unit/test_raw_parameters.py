"""Queries and JSON bodies as raw parameters, before their names mean anything."""

from typing import Any

import pytest

from streamer.errors import BadBody, BadParameter, TooMuch
from streamer.http.api.raw_parameters import MAX_COMMAS, RawParameter, read_body_parameters, read_query_parameters

GENERAL = {"limit"}


def read(body: bytes) -> dict[str, RawParameter]:
    return read_body_parameters(body, GENERAL)


def test_query_collects_the_values_of_a_name_in_order() -> None:
    assert read_query_parameters([("a", "1"), ("b", ""), ("a", "2,3")]) == {
        "a": RawParameter("a", ("1", "2,3"), is_list=False),
        "b": RawParameter("b", ("",), is_list=False),
    }


@pytest.mark.parametrize(
    ("value", "values", "members"),
    [
        (b'"x"', ("x",), {"is_list": False}),
        (b"1.50", ("1.50",), {"is_list": False}),
        (b"true", ("true",), {"is_list": False}),
        (b"[1, false]", ("1", "false"), {"is_list": True}),
        (b"[]", (), {"is_list": True}),
        (b"null", (), {"is_list": False, "has_null": True}),
        (b"[null, 2]", ("2",), {"is_list": True, "has_null": True}),
    ],
)
def test_member_of_a_body_is_a_list_of_texts(value: bytes, values: tuple[str, ...], members: dict[str, Any]) -> None:
    assert read(b'{"a": %b}' % value) == {"a": RawParameter("a", values, **members, in_body=True)}
    filters = read(b'{"limit": 1, "filters": {"a": %b}}' % value)
    assert filters["a"] == RawParameter("a", values, **members, in_filters=True, in_body=True)
    assert filters["limit"] == RawParameter("limit", ("1",), is_list=False, beside_filters=True, in_body=True)


@pytest.mark.parametrize("value", [b"{}", b"[[1]]", b'[{"b": 1}]'])
def test_nested_value_is_refused_with_its_name(value: bytes) -> None:
    with pytest.raises(BadParameter) as refused:
        read(b'{"a": %b}' % value)
    assert refused.value.parameter == "a"


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b'{"a": NaN}', b'{"a": 1, "a": 1}', b"\xff", b"[" * 100_000])
def test_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        read(body)


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_empty_body_has_no_parameters(body: bytes) -> None:
    assert read(body) == {}


@pytest.mark.parametrize("filters", [b"1", b"[]", b'"x"'])
def test_filters_that_are_not_an_object_are_refused(filters: bytes) -> None:
    with pytest.raises(BadParameter) as refused:
        read(b'{"filters": %b}' % filters)
    assert refused.value.parameter == "filters"


def test_name_in_filters_and_beside_them_is_refused_unless_a_general_one_is_null() -> None:
    assert read(b'{"limit": null, "filters": {"limit": 1}}')["limit"].in_filters
    for body in (b'{"limit": 2, "filters": {"limit": 1}}', b'{"a": null, "filters": {"a": 1}}'):
        with pytest.raises(BadParameter, match="both in filters and beside it"):
            read(body)


def test_body_with_too_many_commas_is_refused_before_it_is_parsed() -> None:
    assert len(read(b'{"a": [%b]}' % b",".join([b"1"] * (MAX_COMMAS + 1)))["a"].values) == MAX_COMMAS + 1
    with pytest.raises(TooMuch):
        read(b"," * (MAX_COMMAS + 1))


def test_single_value_is_refused_in_a_list_or_repeated() -> None:
    assert RawParameter("a", ("x",), is_list=False).single() == "x"
    for parameter in (RawParameter("a", ("x",), is_list=True), RawParameter("a", ("x", "y"), is_list=False)):
        with pytest.raises(BadParameter):
            parameter.single()


def test_items_are_split_at_commas_unless_they_are_a_json_list() -> None:
    assert RawParameter("a", ("x, y", "z"), is_list=False).items() == ["x", "y", "z"]
    assert RawParameter("a", ("x, y", "z"), is_list=True).items() == ["x, y", "z"]
    for values in ((), ("",), ("x,",)):
        with pytest.raises(BadParameter):
            RawParameter("a", values, is_list=False).items()


@pytest.mark.parametrize(("text", "value"), [("true", True), ("FALSE", False)])
def test_boolean_is_true_or_false_in_any_case(text: str, value: bool) -> None:
    assert RawParameter("a", (text,), is_list=False).boolean() is value
    with pytest.raises(BadParameter):
        RawParameter("a", (text + "x",), is_list=False).boolean()
