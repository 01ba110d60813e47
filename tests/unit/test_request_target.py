"""Queries and names in paths are decoded exactly, or refused."""

import re
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import BadParameter
from streamer.http import target
from streamer.http.target import decode, parse_query

NOT_UTF_8 = ["M%FCller", "%C3", "%C0%AF", "%ED%A0%80", "%ff%fe%fd", "%F4%90%80%80", "a%80", "%E2%82"]
MALFORMED = ["%", "100%", "%2", "%ZZ", "%zz%41", "%u00e9", "%%20", "%+1", "a%2Gb", "%C3%B"]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("&&", []),
        ("a", [("a", "")]),
        ("a=", [("a", "")]),
        ("=b", [("", "b")]),
        ("a=1&a=2&b=3", [("a", "1"), ("a", "2"), ("b", "3")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=1;b=2", [("a", "1;b=2")]),
        ("a=1+2%2B3", [("a", "1 2+3")]),
        ("a+b=c", [("a b", "c")]),
        ("a%3D1=%26b%3D2", [("a=1", "&b=2")]),
        ("a=%25ZZ", [("a", "%ZZ")]),
        ("a=%c3%BC&%C3%BC=a", [("a", "ü"), ("ü", "a")]),
        ("a=%EF%BF%BD", [("a", "\N{REPLACEMENT CHARACTER}")]),
        ("a=%F0%9F%98%80%00", [("a", "\U0001f600\0")]),
        ("a=b?c", [("a", "b?c")]),
    ],
)
def test_query_is_decoded_as_a_form_is(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_query(text) == pairs


@pytest.mark.parametrize("text", NOT_UTF_8)
def test_query_that_is_not_utf_8_is_refused_with_the_name_of_its_parameter(text: str) -> None:
    for query, name in ((f"x=1&a={text}", "a"), (f"{text}=1", text), (text, text)):
        with pytest.raises(BadParameter, match="must be UTF-8 in percent-encoding") as refused:
            parse_query(query)
        assert refused.value.parameter == name


@pytest.mark.parametrize("text", MALFORMED)
def test_query_with_a_malformed_percent_is_refused_with_the_correct_spelling(text: str) -> None:
    for query, name in ((f"x=1&a={text}", "a"), (f"{text}=1", text)):
        with pytest.raises(BadParameter, match="a % itself is written as %25") as refused:
            parse_query(query)
        assert refused.value.parameter == name


@pytest.mark.parametrize("text", [*NOT_UTF_8, *MALFORMED, "\udcfc"])
def test_name_in_a_path_is_decoded_strictly(text: str) -> None:
    with pytest.raises(ValueError, match=r"UTF-8|hexadecimal"):
        decode(text)


def test_plus_sign_in_a_path_is_kept() -> None:
    assert decode("a+b%20c%2Fd") == "a+b c/d"


@given(st.binary(max_size=12))
def test_bytes_are_decoded_as_utf_8_or_refused(sent: bytes) -> None:
    query = f"a={quote_from_bytes(sent, safe='')}"
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        with pytest.raises(BadParameter):
            parse_query(query)
    else:
        assert parse_query(query) == [("a", text)]


def test_no_other_module_decodes_a_query() -> None:
    modules = Path(target.__file__).parent.glob("*.py")
    readers = {module.name for module in modules if re.search(r"\.(raw_)?query(_string)?\b", module.read_text())}
    assert readers == {"target.py"}
