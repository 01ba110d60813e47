"""Preconditions and If-Range (RFC 9110, 13), and the dates that they are written with (5.6.7).

Ours is the strong tag "A" and the time 25 Jun 2014 17:12:18, that of Go's fs_test.go, unless a row says otherwise.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import product
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.protocol.conditions import (
    Validators,
    Verdict,
    evaluate,
    http_date,
    parse_http_date,
    range_applies,
)

PROCEED, NOT_MODIFIED, FAILED = Verdict.PROCEED, Verdict.NOT_MODIFIED, Verdict.FAILED

NOW = datetime(2026, 2, 7, 12, 0, 0, tzinfo=UTC)
MODIFIED = datetime(2014, 6, 25, 17, 12, 18, tzinfo=UTC)
SAME = "Wed, 25 Jun 2014 17:12:18 GMT"
EARLIER = "Wed, 25 Jun 2014 17:12:17 GMT"
LATER = "Wed, 25 Jun 2014 17:12:19 GMT"

SEALED = Validators('"A"', MODIFIED)
LIVE = Validators('"A"', None)  # a growing export has no time yet


def decide(validators: Validators = SEALED, **fields: str | None) -> Verdict:
    """`if_match='"A"'` is the field If-Match."""
    present = {name.replace("_", "-"): value for name, value in fields.items() if value is not None}
    return evaluate(present, validators, NOW)


# The order of RFC 9110, 13.2.2. Of each field: absent, true, false.

IF_MATCH = {"-": None, "true": '"A"', "false": '"B"'}
IF_UNMODIFIED_SINCE = {"-": None, "true": SAME, "false": EARLIER}
IF_NONE_MATCH = {"-": None, "true": '"B"', "false": '"A"'}
IF_MODIFIED_SINCE = {"-": None, "true": EARLIER, "false": SAME}

ANY = "- true false"
UNLESS_FALSE = "- true"

# (If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since) and the verdict: a line is all of its combinations.
ORDER = [
    ("false", ANY, ANY, ANY, FAILED),  # step 1
    ("-", "false", ANY, ANY, FAILED),  # step 2
    ("-", UNLESS_FALSE, "false", ANY, NOT_MODIFIED),  # step 3, after step 2
    ("true", ANY, "false", ANY, NOT_MODIFIED),  # step 3, after step 1: If-Unmodified-Since is not evaluated
    ("-", UNLESS_FALSE, "true", ANY, PROCEED),  # If-Modified-Since is not evaluated
    ("true", ANY, "true", ANY, PROCEED),
    ("-", UNLESS_FALSE, "-", "false", NOT_MODIFIED),  # step 4
    ("true", ANY, "-", "false", NOT_MODIFIED),
    ("-", UNLESS_FALSE, "-", UNLESS_FALSE, PROCEED),
    ("true", ANY, "-", UNLESS_FALSE, PROCEED),
]

# A date is ignored if the time of the representation is unknown (13.1.3, 13.1.4).
ORDER_LIVE = [
    ("false", ANY, ANY, ANY, FAILED),
    (UNLESS_FALSE, ANY, "false", ANY, NOT_MODIFIED),
    (UNLESS_FALSE, ANY, UNLESS_FALSE, ANY, PROCEED),
]

Order = list[tuple[str, str, str, str, Verdict]]


def expanded(order: Order) -> Order:
    return [
        (*states, verdict)
        for match, unmodified, none_match, modified, verdict in order
        for states in product(match.split(), unmodified.split(), none_match.split(), modified.split())
    ]


@pytest.mark.parametrize("order", [ORDER, ORDER_LIVE])
def test_table_has_every_combination_once(order: Order) -> None:
    combinations = [row[:4] for row in expanded(order)]
    assert sorted(combinations) == sorted(product(ANY.split(), repeat=4))


@pytest.mark.parametrize(("match", "unmodified", "none_match", "modified", "verdict"), expanded(ORDER))
def test_sealed_preconditions_are_evaluated_in_their_order(
    match: str, unmodified: str, none_match: str, modified: str, verdict: Verdict
) -> None:
    found = decide(
        if_match=IF_MATCH[match],
        if_unmodified_since=IF_UNMODIFIED_SINCE[unmodified],
        if_none_match=IF_NONE_MATCH[none_match],
        if_modified_since=IF_MODIFIED_SINCE[modified],
    )
    assert found is verdict


@pytest.mark.parametrize(("match", "unmodified", "none_match", "modified", "verdict"), expanded(ORDER_LIVE))
def test_live_preconditions_are_evaluated_without_their_dates(
    match: str, unmodified: str, none_match: str, modified: str, verdict: Verdict
) -> None:
    found = decide(
        LIVE,
        if_match=IF_MATCH[match],
        if_unmodified_since=IF_UNMODIFIED_SINCE[unmodified],
        if_none_match=IF_NONE_MATCH[none_match],
        if_modified_since=IF_MODIFIED_SINCE[modified],
    )
    assert found is verdict


SUITES: list[tuple[Mapping[str, str], Verdict]] = [
    # Go net/http, fs_test.go, TestServeContent
    ({}, PROCEED),  # no_last_modified, with_last_modified
    ({"if-modified-since": SAME}, NOT_MODIFIED),  # not_modified_modtime
    ({"if-none-match": '"A"'}, NOT_MODIFIED),  # not_modified_etag
    ({"if-none-match": '"baz", W/"A"'}, NOT_MODIFIED),  # not_modified_etag_no_seek
    ({"if-none-match": '"a"'}, PROCEED),  # if_none_match_mismatch
    ({"if-none-match": ","}, PROCEED),  # if_none_match_malformed
    ({"if-match": '"Z", "A"'}, PROCEED),  # ifmatch_matches
    ({"if-match": "*"}, PROCEED),  # ifmatch_star
    ({"if-match": '"B"'}, FAILED),  # ifmatch_failed
    ({"if-match": 'W/"A"'}, FAILED),  # ifmatch_fails_on_weak_etag
    ({"if-unmodified-since": SAME}, PROCEED),  # if_unmodified_since_true
    ({"if-unmodified-since": "Wed, 25 Jun 2014 17:12:16 GMT"}, FAILED),  # if_unmodified_since_false
    # Go: an empty field is no field. RFC 9110, 13.1: it is one, and its list has no tag.
    ({"if-match": ""}, FAILED),
    ({"if-none-match": "", "if-modified-since": SAME}, PROCEED),
    # nginx-tests, not_modified.t
    ({"if-modified-since": "Wed, 08 Jul 2037 22:53:52 GMT"}, NOT_MODIFIED),
    ({"if-modified-since": "Tue, 19 Jan 2038 03:14:07 GMT"}, NOT_MODIFIED),
    ({"if-modified-since": "Tue, 19 Jan 2038 03:14:08 GMT"}, NOT_MODIFIED),  # nginx with 32 bits of time: 200
    ({"if-modified-since": "Fri, 25 Feb 2174 09:42:23 GMT"}, NOT_MODIFIED),  # nginx with 32 bits of time: 200
    ({"if-none-match": '"foo"'}, PROCEED),
    ({"if-none-match": '"foo", "bar", "A" , "baz"'}, NOT_MODIFIED),
    ({"if-none-match": "*"}, NOT_MODIFIED),
    ({"if-none-match": 'W/"A"'}, NOT_MODIFIED),
    ({"if-match": '"A"'}, PROCEED),
    ({"if-match": '"foo"'}, FAILED),
    ({"if-match": '"foo", "bar", \t"A" , "baz"'}, PROCEED),
    # jshttp fresh, test/fresh.js
    ({"if-none-match": ' "bar" , "A"'}, NOT_MODIFIED),
    ({"if-none-match": '"bar",\t"A"'}, NOT_MODIFIED),
    ({"if-none-match": '*, "bar"'}, PROCEED),  # Go: a * anywhere matches; RFC 9110, 13.1.2 has it only alone
    ({"if-modified-since": EARLIER}, PROCEED),
    ({"if-modified-since": LATER}, NOT_MODIFIED),
    ({"if-modified-since": "foo"}, PROCEED),
    ({"if-none-match": '"A"', "if-modified-since": LATER}, NOT_MODIFIED),
    ({"if-none-match": '"A"', "if-modified-since": EARLIER}, NOT_MODIFIED),
    ({"if-none-match": '"B"', "if-modified-since": LATER}, PROCEED),
    ({"if-none-match": '"B"', "if-modified-since": EARLIER}, PROCEED),
    ({"cache-control": "no-cache", "if-none-match": '"A"'}, NOT_MODIFIED),  # fresh: stale; RFC 9111 asks it of caches
    # RFC 9110, 13.1.3 and 13.1.4: a field that is no date, or a list of them, is ignored.
    ({"if-unmodified-since": "foo"}, PROCEED),
    ({"if-unmodified-since": ""}, PROCEED),
    ({"if-unmodified-since": EARLIER[:-4]}, PROCEED),
    ({"if-unmodified-since": f"{EARLIER}, {EARLIER}"}, PROCEED),
    ({"if-modified-since": f"{SAME}, {SAME}"}, PROCEED),
    ({"if-unmodified-since": LATER}, PROCEED),
    ({"if-unmodified-since": "Wednesday, 25-Jun-14 17:12:17 GMT"}, FAILED),
    ({"if-unmodified-since": "Wed Jun 25 17:12:17 2014"}, FAILED),
    ({"if-modified-since": "Wednesday, 25-Jun-14 17:12:18 GMT"}, NOT_MODIFIED),
    ({"if-modified-since": "Wed Jun 25 17:12:18 2014"}, NOT_MODIFIED),
    # If-Range and Range decide nothing here (13.2.2, step 5).
    ({"if-range": '"B"', "range": "bytes=0-4"}, PROCEED),
]


@pytest.mark.parametrize(("headers", "verdict"), SUITES)
def test_preconditions_have_the_verdict_of_other_test_suites(headers: Mapping[str, str], verdict: Verdict) -> None:
    assert evaluate(headers, SEALED, NOW) is verdict


# Lists of entity tags (8.8.3): whether the tag is found by weak comparison (If-None-Match), and by strong (If-Match).

TAGS = [
    ('"A"', True, True),
    ('W/"A"', True, False),
    ('"B"', False, False),
    ('"a"', False, False),
    ('"A "', False, False),
    ('""', False, False),
    ('W/""', False, False),
    ("*", True, True),
    (" *\t", True, True),
    ('"*"', False, False),
    ("**", False, False),
    ("*,*", False, False),
    ('"B","A"', True, True),
    ('"A","B"', True, True),
    ('"B" ,\t"A"', True, True),
    ('W/"B", W/"A"', True, False),
    ('W/"A", "A"', True, True),
    ('"A", W/"A"', True, True),
    # RFC 9110, 5.6.1.2: empty members
    (',"A"', True, True),
    ('\t, ,, "A" , ,', True, True),
    ('"B",,"A"', True, True),
    ("", False, False),
    (" ", False, False),
    (" , ,", False, False),
    # A comma, a backslash or a star within a tag is a part of it.
    ('"A,"', False, False),
    ('"B,", "A"', True, True),
    ('"B,\\", "A"', True, True),
    ('"*", "A"', True, True),
    # RFC 9110, 8.8.3: obs-text may stand in a tag
    ('"\xe9\xff", "A"', True, True),
    # Malformed: what stands before is read, nothing after. Go reads a tag as far (TestScanETag).
    ("A", False, False),
    ('"A', False, False),
    ('A"', False, False),
    ("'A'", False, False),
    ('"', False, False),
    ('"""', False, False),
    ("W/", False, False),
    ("W/A", False, False),
    ('W/"truc', False, False),
    ('W/ "A"', False, False),
    ('W"A"', False, False),
    ('w/"A"', False, False),  # case-sensitive
    ('"spaced etag"', False, False),
    ('"spaced etag", "A"', False, False),
    ('"del\x7f", "A"', False, False),
    ('"nul\x00", "A"', False, False),
    ('"line\n", "A"', False, False),
    ('B, "A"', False, False),
    ('"B" "A"', False, False),
    ('"B""A"', False, False),
    ('"B"; "A"', False, False),
    ('"B"\n,"A"', False, False),
    ('*, "A"', False, False),
    ('"A", *', True, True),
    ('"B", *', False, False),
    ('"A", B', True, True),
    ('"A" "B"', True, True),
]


@pytest.mark.parametrize(("field", "weakly", "strongly"), TAGS)
def test_tag_is_found_in_a_list(field: str, *, weakly: bool, strongly: bool) -> None:
    assert decide(if_none_match=field) is (NOT_MODIFIED if weakly else PROCEED)
    assert decide(if_match=field) is (PROCEED if strongly else FAILED)


COMMAS = [
    ('"a,b"', True),
    ('"x", "a,b"', True),
    ('"a,b", "x"', True),
    ('"a", "b"', False),
    ('"a", "b", "a,b"', True),
    ('"a,b,"', False),
    ('"x,", ",a,b"', False),
]


@pytest.mark.parametrize(("field", "found"), COMMAS)
def test_tag_may_contain_a_comma(field: str, *, found: bool) -> None:
    ours = Validators('"a,b"', MODIFIED)
    assert decide(ours, if_match=field) is (PROCEED if found else FAILED)
    assert decide(ours, if_none_match=field) is (NOT_MODIFIED if found else PROCEED)


@pytest.mark.parametrize("other", ['"\u20ac"', '"\udce9"'])
def test_tag_is_found_after_a_tag_outside_latin_1(other: str) -> None:
    assert decide(if_match=f'{other}, "A"') is PROCEED


OPAQUE = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"], exclude_characters='" \xa0'), max_size=6)
SEPARATORS = st.sampled_from([",", ", ", " ,", "\t,\t", ",,", ", ,"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.booleans(), OPAQUE, SEPARATORS), min_size=1, max_size=8), st.data())
def test_tag_is_found_at_any_position_of_a_well_formed_list(
    tags: list[tuple[bool, str, str]], data: st.DataObject
) -> None:
    ours = data.draw(st.sampled_from([opaque for _, opaque, _ in tags]) | OPAQUE)
    field = "".join(f'{"W/" if weak else ""}"{opaque}"{separator}' for weak, opaque, separator in tags)
    validators = Validators(f'"{ours}"', MODIFIED)
    weakly = any(opaque == ours for _, opaque, _ in tags)
    strongly = any(opaque == ours and not weak for weak, opaque, _ in tags)
    assert decide(validators, if_none_match=field) is (NOT_MODIFIED if weakly else PROCEED)
    assert decide(validators, if_match=field) is (PROCEED if strongly else FAILED)


# If-Range (13.1.5)

IF_RANGE = [
    (None, True),
    ('"A"', True),  # Go, range_match
    ('"B"', False),  # Go, range_no_match
    ('W/"A"', False),  # Go, range_match_weak_etag
    ('w/"A"', False),
    ('"a"', False),
    ('""', False),
    ("A", False),
    ('"A', False),
    ('A"', False),
    ("'A'", False),
    ('"', False),
    ("", False),
    ("*", False),  # RFC 9110, 13.1.5: no list, no star
    ('"*"', False),
    ('"A", "A"', False),
    ('"B", "A"', False),
    ('"A",', False),
    ('"A" ', False),  # a parser of fields has taken the white space away
    ("wrong", False),  # nginx-tests, range_if_range.t
    (SAME, True),  # Go, range_with_modtime; nginx-tests, range_if_range.t
    (LATER, False),  # Go, range_with_modtime_mismatch: later does not do
    (EARLIER, False),
    ("Wed, 25 Jun 2014 17:12:18", False),
    ("Wed, 25 Jun 2014 17:12:18 UTC", False),
    (f'"{SAME}"', False),
    (f"{SAME}, {SAME}", False),
    ("Wed, 25 Jun 2014 18:12:18 GMT", False),
    # RFC 9110, 5.6.7: the same time in another form is the same time.
    ("Wednesday, 25-Jun-14 17:12:18 GMT", True),
    ("Wed Jun 25 17:12:18 2014", True),
    ("Wednesday, 25-Jun-14 17:12:19 GMT", False),
    ("Wed Jun 25 17:12:17 2014", False),
]


@pytest.mark.parametrize(("field", "applies"), IF_RANGE)
def test_range_applies_only_with_the_tag_or_the_time(field: str | None, *, applies: bool) -> None:
    assert range_applies(field, SEALED, NOW) is applies


@pytest.mark.parametrize(
    ("field", "applies"),
    [(None, True), ('"A"', True), ('"B"', False), ('W/"A"', False), (SAME, False), ("wrong", False), ("", False)],
)
def test_live_range_applies_only_with_the_tag(field: str | None, *, applies: bool) -> None:
    assert range_applies(field, LIVE, NOW) is applies


def test_range_applies_with_a_time_of_1970() -> None:
    date = "Mon, 28 Sep 1970 06:00:00 GMT"  # nginx-tests, range_if_range.t
    old = Validators('"A"', datetime(1970, 9, 28, 6, 0, 0, tzinfo=UTC))
    assert range_applies(date, old, NOW)
    assert not range_applies(date, SEALED, NOW)


@pytest.mark.parametrize("second", [61, 99])
def test_range_does_not_apply_with_an_invalid_second(second: int) -> None:
    ours = Validators('"A"', datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert not range_applies(f"Sat, 31 Dec 2016 23:59:{second} GMT", ours, NOW)


# Dates (5.6.7)

DATES = [
    # RFC 9110, 5.6.7: its three examples
    ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("Sunday, 06-Nov-94 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("Sun Nov  6 08:49:37 1994", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
    ("Wed Nov 16 08:49:37 1994", datetime(1994, 11, 16, 8, 49, 37, tzinfo=UTC)),
    # nginx-tests, not_modified.t and range_if_range.t
    ("Wed, 08 Jul 2037 22:53:52 GMT", datetime(2037, 7, 8, 22, 53, 52, tzinfo=UTC)),
    ("Tue, 19 Jan 2038 03:14:08 GMT", datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC)),
    ("Fri, 25 Feb 2174 09:42:23 GMT", datetime(2174, 2, 25, 9, 42, 23, tzinfo=UTC)),
    ("Mon, 28 Sep 1970 06:00:00 GMT", datetime(1970, 9, 28, 6, 0, 0, tzinfo=UTC)),
    # The edges of the calendar
    ("Thu, 01 Jan 1970 00:00:00 GMT", datetime(1970, 1, 1, tzinfo=UTC)),
    ("Thu, 29 Feb 2024 23:59:59 GMT", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
    ("Tue, 29 Feb 2000 00:00:00 GMT", datetime(2000, 2, 29, tzinfo=UTC)),
    ("Fri, 31 Dec 9999 23:59:59 GMT", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ("Mon, 01 Jan 0001 00:00:00 GMT", datetime(1, 1, 1, tzinfo=UTC)),
    # A leap second is the second before it: a clock without leap seconds has no other.
    ("Sat, 31 Dec 2016 23:59:60 GMT", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ("Saturday, 31-Dec-16 23:59:60 GMT", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ("Sat Dec 31 23:59:60 2016", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    # Two digits of a year, read on 7 Feb 2026
    ("Tuesday, 01-Feb-00 00:00:00 GMT", datetime(2000, 2, 1, tzinfo=UTC)),
    ("Saturday, 07-Feb-26 00:00:00 GMT", datetime(2026, 2, 7, tzinfo=UTC)),
    ("Sunday, 07-Feb-27 00:00:00 GMT", datetime(2027, 2, 7, tzinfo=UTC)),
    ("Thursday, 07-Feb-75 00:00:00 GMT", datetime(2075, 2, 7, tzinfo=UTC)),
    ("Wednesday, 01-Jan-76 00:00:00 GMT", datetime(2076, 1, 1, tzinfo=UTC)),  # less than 50 years away
    ("Saturday, 01-Jan-77 00:00:00 GMT", datetime(1977, 1, 1, tzinfo=UTC)),
    ("Friday, 31-Dec-99 23:59:59 GMT", datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)),
]


@pytest.mark.parametrize(("text", "moment"), DATES)
def test_date_in_any_form_is_parsed(text: str, moment: datetime) -> None:
    assert parse_http_date(text, NOW) == moment


@pytest.mark.parametrize(
    ("day", "year"), [("28-Feb-74", 2074), ("01-Mar-74", 2074), ("02-Mar-74", 1974)], ids=["before", "on", "after"]
)
def test_fifty_years_after_a_leap_day_end_on_the_first_of_march(day: str, year: int) -> None:
    found = parse_http_date(f"Sunday, {day} 00:00:00 GMT", datetime(2024, 2, 29, tzinfo=UTC))
    assert found is not None
    assert found.year == year


@pytest.mark.parametrize(("year", "century"), [(1950, 1900), (1999, 1900), (2000, 2000), (2049, 2000), (2050, 2000)])
def test_year_of_two_digits_is_in_the_current_century(year: int, century: int) -> None:
    now = datetime(year, 6, 1, tzinfo=UTC)
    found = parse_http_date(f"Monday, 01-Jan-{year % 100:02} 00:00:00 GMT", now)
    assert found == datetime(century + year % 100, 1, 1, tzinfo=UTC)


def test_year_of_two_digits_more_than_50_years_ahead_is_in_the_past() -> None:
    assert parse_http_date("Friday, 31-Dec-76 00:00:00 GMT", NOW) == datetime(1976, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "foo",
        "now",
        "0",
        "784111777",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 gmt",
        "Sun, 06 Nov 1994 08:49:37 EST",
        "Sun, 06 Nov 1994 08:49:37 GMT; length=1024",  # of Netscape
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun,  06 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "06 Nov 1994 08:49:37 GMT",
        "sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun,  6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",  # of RFC 822
        "Sun, 06 Nov 01994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 NOV 1994 08:49:37 GMT",
        "Sun, 06 November 1994 08:49:37 GMT",
        "Sun, 06 Nof 1994 08:49:37 GMT",
        "Sun, 06 11 1994 08:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06-11-94 08:49:37 GMT",
        "Sunday, 6-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 94",
        "Sun Nov  6 08:49:37 GMT 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 08:49:37 GMT",
        "Thu, 29 Feb 1900 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov -994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 08:49:37.5 GMT",
        "Sun, 06 Nov 1994 -8:49:37 GMT",
        "Sun, \uff10\uff16 Nov 1994 08:49:37 GMT",  # full-width
        "Sun, 06 Nov 1994 \uff10\uff18:49:37 GMT",
        "Sun, 06 Nov 1994 08:\uff14\uff19:37 GMT",
        "Sun, 06 Nov 1994 08:49:\uff13\uff17 GMT",
        "Sun, 06 Nov \u0661\u0669\u0669\u0664 08:49:37 GMT",  # Arabic
    ],
)
def test_invalid_date_is_none(text: str) -> None:
    assert parse_http_date(text, NOW) is None


@pytest.mark.parametrize("second", [61, 75, 99])
def test_second_beyond_a_leap_second_is_no_date(second: int) -> None:
    assert parse_http_date(f"Sun, 06 Nov 1994 08:49:{second} GMT", NOW) is None


@pytest.mark.parametrize(
    "text", ["Foo, 06 Nov 1994 08:49:37 GMT", "Fooday, 06-Nov-94 08:49:37 GMT", "Foo Nov  6 08:49:37 1994"]
)
def test_date_with_an_unknown_day_name_is_none(text: str) -> None:
    assert parse_http_date(text, NOW) is None


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC), "Sun, 06 Nov 1994 08:49:37 GMT"),  # RFC 9110, 5.6.7
        (MODIFIED, SAME),
        (datetime(2014, 6, 25, 17, 12, 18, 123, tzinfo=UTC), SAME),  # Go, range_with_modtime_nanos
        (datetime(2014, 6, 25, 17, 12, 18, 999_999, tzinfo=UTC), SAME),
        (datetime(2014, 6, 25, 22, 42, 18, tzinfo=timezone(timedelta(hours=5, minutes=30))), SAME),
        (datetime(2023, 12, 31, 20, 0, 0, tzinfo=timezone(-timedelta(hours=8))), "Mon, 01 Jan 2024 04:00:00 GMT"),
    ],
)
def test_time_is_formatted_as_an_imf_fixdate(moment: datetime, text: str) -> None:
    assert http_date(moment) == text


MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(9998, 12, 31)).flatmap(
    lambda naive: st.integers(-23, 23).map(lambda hours: naive.replace(tzinfo=timezone(timedelta(hours=hours))))
)


@settings(deadline=None)
@given(MOMENTS)
def test_formatted_time_is_parsed_back_to_the_second(moment: datetime) -> None:
    text = http_date(moment)
    assert text == format_datetime(moment.astimezone(UTC), usegmt=True)
    assert parse_http_date(text, NOW) == moment.replace(microsecond=0)


# Anything

NAMES = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
NEARLY = st.text('"W/*, \tA\\', max_size=20) | st.text("SunNovGMT,- :0123456789", max_size=32) | st.text(max_size=30)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(NAMES), NEARLY), st.sampled_from([SEALED, LIVE]))
def test_any_text_is_evaluated_without_an_error(headers: dict[str, str], validators: Validators) -> None:
    verdict = evaluate(headers, validators, NOW)
    if not headers.keys() & {"if-match", "if-unmodified-since"}:
        assert verdict is not FAILED
    if not headers.keys() & {"if-none-match", "if-modified-since"}:
        assert verdict is not NOT_MODIFIED
    # No text of these alphabets is the time of ours.
    if_range = headers.get("if-range")
    assert range_applies(if_range, validators, NOW) is (if_range in (None, '"A"'))


@pytest.mark.parametrize(
    "field",
    [
        '"' * 8192,
        '"' + "x" * 8191,
        "W/" * 4096,
        "," * 8192,
        " " * 8192,
        " ," * 4096,
        '"B"' + " " * 8189,
        '"B"' + "," * 8188 + "x",
        '"B",' * 2048,
        '"B" ' * 2048,
        "*" * 8192,
        "A" + "a" * 8191,
        "S" * 4096 + "u" * 4096,
        "Sun, 06 Nov " + "1" * 8180,
        "Sun Nov  6 08:49:37 " + "1" * 8172,
    ],
    ids=lambda field: f"{field[:8]}...{field[-4:]}",
)
def test_field_of_8_kilobytes_is_evaluated_at_once(field: str) -> None:
    begun = thread_time()
    for _ in range(10):
        assert decide(if_match=field) is FAILED
        assert decide(if_none_match=field) is PROCEED
        assert decide(if_modified_since=field, if_unmodified_since=field) is PROCEED
        assert not range_applies(field, SEALED, NOW)
    assert thread_time() - begun < 1
