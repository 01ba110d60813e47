"""Accept (RFC 9110, 12.5.1) between two media types. A row is (field, the type that is sent)."""

from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from streamer.protocol.accept import MAX_FIELD, preferred

JSON, HTML = "application/json", "text/html"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
SAFARI = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

ROWS = [
    # 12.5.1: "A request without any Accept header field implies that the user agent will accept any media type"
    (None, JSON),
    ("*/*", JSON),  # curl
    (CHROME, HTML),
    (SAFARI, HTML),
    ("text/html", HTML),
    ("application/json", JSON),
    ("text/*", HTML),
    ("application/*", JSON),
    ("text/html, application/json", JSON),  # equal weights: the first one offered
    ("text/html;q=0.9, application/json", JSON),
    ("text/html, application/json;q=0.9", HTML),
    ("text/html;q=0.001, application/json;q=0", HTML),
    ("*/*;q=0.5, text/html", HTML),
    ("*/*, application/json;q=0.5", HTML),  # the more specific range decides
    ("application/*;q=0.2, */*;q=0.1, application/json;q=0", HTML),
    ("TEXT/HTML", HTML),
    ("text/html ; Q=0.8 , application/json;q=0.7", HTML),
    ("text/html;charset=utf-8, application/json;q=0.5", HTML),
    ('text/html;charset="UTF-8", application/json;q=0.5', HTML),
    ("text/html;level=1, application/json;q=0.5", JSON),  # there is no such HTML
    ("application/vnd.api+json, text/html;q=0.1", HTML),
    # None of them is acceptable: the first one, which 12.5.1 allows.
    ("image/png", JSON),
    ("text/html;q=0, application/json;q=0", JSON),
    # Not of the form that 12.5.1 gives: ignored.
    ("", JSON),
    ("text", JSON),
    ("text/html;q=2, */*;q=0.1", JSON),
    ("text/html;q=high", JSON),
    ("/", JSON),
    ('"text/html', JSON),
    (",,text/html,,", HTML),
    ('application/json;profile="a,b;q=1", text/html;q=0.3', HTML),  # a comma between quotes
]


@pytest.mark.parametrize(("field", "media_type"), ROWS)
def test_preferred_type_is_that_of_the_table(field: str | None, media_type: str) -> None:
    assert preferred(field, (JSON, HTML)) == media_type


def test_order_of_the_offer_decides_between_equals() -> None:
    assert preferred("*/*", (HTML, JSON)) == HTML
    assert preferred(None, (HTML, JSON)) == HTML


def test_field_is_read_to_its_largest_length() -> None:
    assert preferred("text/html".rjust(MAX_FIELD), (JSON, HTML)) == HTML
    assert preferred("text/html".rjust(MAX_FIELD + 1), (JSON, HTML)) == JSON


WEIGHTS = st.sampled_from(["", ";q=0", ";q=0.3", ";q=0.9", ";q=1"])
TYPES = st.sampled_from([JSON, HTML, "text/*", "application/*", "*/*", "image/png"])


@given(st.lists(st.tuples(TYPES, WEIGHTS), unique_by=lambda member: member[0]))
def test_well_formed_fields_are_answered_as_by_werkzeug(members: list[tuple[str, str]]) -> None:
    field = ", ".join(media_type + weight for media_type, weight in members)
    found = max((JSON, HTML), key=parse_accept_header(field, MIMEAccept).quality)
    assert preferred(field, (JSON, HTML)) == found


@pytest.mark.parametrize("field", ['"' * 8000, "a/b;" * 8000, 'a/b;c="' * 8000, " \t" * 8000, "a/b;c=\\" * 8000])
def test_hostile_field_takes_no_time(field: str) -> None:
    begin = thread_time()
    preferred(field, (JSON, HTML))
    assert thread_time() - begin < 0.5
