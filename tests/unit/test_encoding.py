"""Accept-Encoding (RFC 9110, 12.5.3) among identity, gzip and zstd, and weights of every form (12.4.2).

A row is (field, groups of codings), the preferred group first. Where suites disagree the RFC decides, then the README,
and a comment names the suite that answers otherwise.
"""

import re
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from streamer.coding import COMPRESSED, Coding
from streamer.protocol.encoding import preferences

Groups = tuple[tuple[Coding, ...], ...]
Row = tuple[str | None, Groups]

IDENTITY = (Coding.IDENTITY,)
GZIP = (Coding.GZIP,)
ZSTD = (Coding.ZSTD,)
EITHER = (Coding.GZIP, Coding.ZSTD)

GZIP_FIRST: Groups = (GZIP, IDENTITY)
ZSTD_FIRST: Groups = (ZSTD, IDENTITY)
EITHER_FIRST: Groups = (EITHER, IDENTITY)
IDENTITY_FIRST: Groups = (IDENTITY, GZIP)
ONLY_GZIP: Groups = (GZIP,)
ONLY_IDENTITY: Groups = (IDENTITY,)
NOTHING: Groups = ()

RFC_9110: list[Row] = [
    # 12.5.3: its examples
    ("compress, gzip", GZIP_FIRST),
    ("", ONLY_IDENTITY),
    ("*", EITHER_FIRST),
    ("compress;q=0.5, gzip;q=1.0", GZIP_FIRST),
    ("gzip;q=1.0, identity; q=0.5, *;q=0", GZIP_FIRST),
    # 12.5.3: its rules
    (None, (IDENTITY, EITHER)),  # "any content coding is considered acceptable"
    ("identity;q=0", NOTHING),
    ("gzip, identity;q=1", GZIP_FIRST),  # 12.4.2: a weight that is not given is 1
    ("gzip;q=1, identity", GZIP_FIRST),
    ("*;q=0", NOTHING),
    ("*;q=0, identity;q=0.001", ONLY_IDENTITY),
    ("*;q=0, gzip;q=0.001", ONLY_GZIP),
    ("deflate", ONLY_IDENTITY),  # identity is acceptable unless it is excluded
    ("identity", ONLY_IDENTITY),
    # 8.4.1.3: "SHOULD consider x-gzip to be equivalent to gzip"
    ("x-gzip", GZIP_FIRST),
    ("X-GZip;q=0.5", GZIP_FIRST),
    ("x-gzip;q=0", ONLY_IDENTITY),
    ("x-gzip, identity;q=0", ONLY_GZIP),
    ("x-gzip;q=0, *", ZSTD_FIRST),
    ("x-x-gzip", ONLY_IDENTITY),
]

SUITES: list[Row] = [
    # nginx-tests, gzip.t and gzip_accept_encoding_htab.t
    ("gzip", GZIP_FIRST),
    ("gzip, deflate", GZIP_FIRST),
    ("gzip,deflate", GZIP_FIRST),
    ("gzip,\tdeflate", GZIP_FIRST),
    ("gzip\tdeflate", ONLY_IDENTITY),
    ("gzip\t,deflate", GZIP_FIRST),
    ("gzip;\tq=0.5", GZIP_FIRST),
    ("gzip;q=0.5\t,deflate", GZIP_FIRST),
    # httpd, t/modules/deflate.t
    ("gzip;q=0", ONLY_IDENTITY),
    # nytimes gziphandler, TestParseEncodings
    ("AAA;q=1", ONLY_IDENTITY),
    ("BBB ; q = 2", ONLY_IDENTITY),
    ("gzip ; q = 1", ONLY_IDENTITY),  # gziphandler: 1; RFC 9110, 12.4.2 has no white space around "="
    # jshttp negotiator, test/encoding.js, for identity, gzip and zstd
    ("*, gzip", EITHER_FIRST),
    ("*, gzip;q=0", ZSTD_FIRST),
    ("*;q=0, identity;q=1", ONLY_IDENTITY),
    ("gzip, compress;q=0", GZIP_FIRST),
    ("gzip;q=0.8, deflate", GZIP_FIRST),
    ("gzip;q=0.8, identity;q=0.5, *;q=0.3", (GZIP, IDENTITY, ZSTD)),
    ("gzip;foo=bar;q=1, deflate;q=1", ONLY_IDENTITY),  # negotiator: gzip; RFC 9110, 12.5.3 has no parameter but q
    ('gzip;foo="bar,baz", deflate', ONLY_IDENTITY),  # negotiator: gzip
]

CLIENTS: list[Row] = [
    ("gzip, deflate, br, zstd", EITHER_FIRST),  # Chromium, Firefox
    ("deflate, gzip, br, zstd", EITHER_FIRST),  # curl --compressed
    ("identity", ONLY_IDENTITY),  # wget, HTTPie --continue
    ("gzip;q=1.0,deflate;q=0.6,identity;q=0.3", GZIP_FIRST),  # Ruby
    ("identity;q=1, *;q=0", ONLY_IDENTITY),  # Chromium, for what it plays
]

PREFERENCES: list[Row] = [
    ("gzip, identity", GZIP_FIRST),  # the README: identity wins only where the client prefers it
    ("identity, gzip", GZIP_FIRST),
    ("gzip;q=0.5, identity;q=0.5", GZIP_FIRST),
    ("gzip;q=0.5, identity;q=0.500", GZIP_FIRST),
    ("gzip;q=0.5, identity;q=0.501", IDENTITY_FIRST),
    ("gzip;q=0.5, identity", IDENTITY_FIRST),
    ("identity, gzip;q=0.999", IDENTITY_FIRST),
    ("gzip;q=0.001", GZIP_FIRST),  # an unlisted identity comes last
    ("gzip;q=0.001, identity;q=0.002", IDENTITY_FIRST),
    ("gzip;q=0.2, *;q=0.1", (GZIP, ZSTD, IDENTITY)),
    ("gzip;q=0.1, *;q=0.2", (ZSTD, IDENTITY, GZIP)),
    ("identity;q=0.1, *;q=0.2", EITHER_FIRST),
    ("identity;q=0.2, *;q=0.1", (IDENTITY, EITHER)),
    ("*;q=0.5", EITHER_FIRST),
    ("gzip;q=0, identity;q=0", NOTHING),
    ("gzip;q=0, *;q=0", NOTHING),
    ("gzip;q=0, *;q=1", ZSTD_FIRST),
    ("identity;q=0, *;q=1", (EITHER,)),
    ("*;q=1, identity;q=0", (EITHER,)),
    ("gzip, *;q=0", ONLY_GZIP),
    ("gzip, identity;q=0", ONLY_GZIP),
    ("br, identity;q=0", NOTHING),
    ("br;q=0", ONLY_IDENTITY),
    ("br, *;q=0", NOTHING),
]

ZSTD_AND_GZIP: list[Row] = [
    ("zstd", ZSTD_FIRST),
    ("ZStd;q=0.001", ZSTD_FIRST),
    ("zstd;q=0", ONLY_IDENTITY),
    ("zstd, gzip", EITHER_FIRST),  # the order of the members says nothing
    ("zstd, x-gzip, identity", EITHER_FIRST),
    ("zstd;q=0.5, gzip;q=0.500, identity", (IDENTITY, EITHER)),
    ("zstd, gzip;q=0.9", (ZSTD, GZIP, IDENTITY)),
    ("zstd;q=0.9, gzip", (GZIP, ZSTD, IDENTITY)),
    ("zstd;q=0.9, gzip, identity;q=0.95", (GZIP, IDENTITY, ZSTD)),
    ("zstd;q=0.9, gzip;q=0.8, identity", (IDENTITY, ZSTD, GZIP)),
    ("zstd;q=0.9, gzip;q=0.8, identity;q=0.8", (ZSTD, GZIP, IDENTITY)),
    ("zstd, gzip;q=0", ZSTD_FIRST),
    ("zstd;q=0, gzip", GZIP_FIRST),
    ("zstd;q=0, *", GZIP_FIRST),
    ("zstd, *;q=0.5", (ZSTD, GZIP, IDENTITY)),
    ("zstd, *;q=0", (ZSTD,)),
    ("zstd, identity;q=0", (ZSTD,)),
    ("zstd, gzip, identity;q=0", (EITHER,)),
    ("zstd;q=0.5, gzip, *;q=0", (GZIP, ZSTD)),
    ("zstd;q=0, gzip;q=0, *", ONLY_IDENTITY),
    ("zstd;q=0, gzip;q=0, identity;q=0", NOTHING),
    ("zstd, gzip, zstd;q=0", EITHER_FIRST),
    ("x-zstd", ONLY_IDENTITY),
    ("zst", ONLY_IDENTITY),
]

# The first member of a coding counts; the RFC does not define it.
DUPLICATES: list[Row] = [
    ("gzip, gzip", GZIP_FIRST),
    ("gzip;q=0, gzip", ONLY_IDENTITY),
    ("gzip, gzip;q=0", GZIP_FIRST),
    ("GZIP;q=0, gzip", ONLY_IDENTITY),
    ("gzip, x-gzip;q=0", GZIP_FIRST),
    ("x-gzip;q=0, gzip", ONLY_IDENTITY),
    ("gzip;q=0.2, identity;q=0.5, gzip;q=1", IDENTITY_FIRST),
    ("*;q=0, *", NOTHING),
    ("gzip;q=2, gzip;q=0.5", GZIP_FIRST),  # a member with an invalid weight is ignored
]

# Several lines of one field are one list (RFC 9110, 5.3).
LINES: list[Row] = [
    (", ".join(["gzip;q=0", "br", "identity;q=0"]), NOTHING),
    (", ".join(["identity;q=0.5", "gzip"]), GZIP_FIRST),
    (", ".join(["", ""]), ONLY_IDENTITY),
]

UNREADABLE: list[Row] = [
    # Empty lists (5.6.1.2)
    (" ", ONLY_IDENTITY),
    (",", ONLY_IDENTITY),
    (" ,\t, ", ONLY_IDENTITY),
    (",gzip,", GZIP_FIRST),
    (", ,gzip", GZIP_FIRST),
    # Other codings
    ("br, deflate, compress", ONLY_IDENTITY),
    ("gzipped", ONLY_IDENTITY),
    ("gzip2", ONLY_IDENTITY),
    ("agzip", ONLY_IDENTITY),
    ("gz", ONLY_IDENTITY),
    ("**", ONLY_IDENTITY),
    ("*/*", ONLY_IDENTITY),
    # Garbage
    (";", ONLY_IDENTITY),
    (";q=1", ONLY_IDENTITY),
    ("=", ONLY_IDENTITY),
    ("gzip;", ONLY_IDENTITY),
    ("gzip;;q=1", ONLY_IDENTITY),
    ("gzip;q=1;", ONLY_IDENTITY),
    ("gzip;q=1;q=1", ONLY_IDENTITY),
    ("gzip=1", ONLY_IDENTITY),
    ("gzip q=1", ONLY_IDENTITY),
    ("gzip/1.0", ONLY_IDENTITY),
    ("g zip", ONLY_IDENTITY),
    ("gzip deflate", ONLY_IDENTITY),
    ("gzip;deflate", ONLY_IDENTITY),
    ('"gzip"', ONLY_IDENTITY),
    ("gzip\n", ONLY_IDENTITY),
    ("gzip\x00", ONLY_IDENTITY),
    ("\x00gzip", ONLY_IDENTITY),
    ("\xa0gzip", ONLY_IDENTITY),  # a no-break space
    ("\uff47\uff5a\uff49\uff50", ONLY_IDENTITY),  # full-width
    ("gz\u0131p", ONLY_IDENTITY),  # a dotless i
    ("GZ\u0130P", ONLY_IDENTITY),  # a dotted I
    ("\U0001f600, gzip", GZIP_FIRST),
    ("identity;q=x, gzip;q=x", ONLY_IDENTITY),
]

TABLES = {
    "RFC 9110": RFC_9110,
    "suites": SUITES,
    "clients": CLIENTS,
    "preferences": PREFERENCES,
    "zstd and gzip": ZSTD_AND_GZIP,
    "duplicates": DUPLICATES,
    "lines": LINES,
    "unreadable": UNREADABLE,
}


@pytest.mark.parametrize(
    ("field", "groups"),
    [pytest.param(*row, id=f"{table}: {row[0]!a}") for table, rows in TABLES.items() for row in rows],
)
def test_field_accepts_the_codings_of_the_table(field: str | None, groups: Groups) -> None:
    assert preferences(field) == groups


# Weights of every form, each for gzip: 0 excludes it, an invalid weight has the effect of no member, and all others are
# compared with identity;q=0.5.

WEIGHTS = [
    ("", GZIP_FIRST),
    (";q=1", GZIP_FIRST),
    (";q=1.", GZIP_FIRST),
    (";q=1.0", GZIP_FIRST),
    (";q=1.00", GZIP_FIRST),
    (";q=1.000", GZIP_FIRST),
    (";q=0.5", GZIP_FIRST),
    (";q=0.51", GZIP_FIRST),
    (";q=0.501", GZIP_FIRST),
    (";q=0.499", IDENTITY_FIRST),
    (";q=0.001", IDENTITY_FIRST),
    (";q=0.010", IDENTITY_FIRST),
    (";q=0.999", GZIP_FIRST),
    (";Q=1", GZIP_FIRST),
    (";Q=0.1", IDENTITY_FIRST),
    (";Q=0", ONLY_IDENTITY),
    (" ;q=0.1", IDENTITY_FIRST),
    ("; q=0.1", IDENTITY_FIRST),
    (" \t ;\t q=0.1", IDENTITY_FIRST),
    (";q=0.1 ", IDENTITY_FIRST),
    (";q=0", ONLY_IDENTITY),
    (";q=0.", ONLY_IDENTITY),
    (";q=0.0", ONLY_IDENTITY),
    (";q=0.00", ONLY_IDENTITY),
    (";q=0.000", ONLY_IDENTITY),
    (" ; q=0 ", ONLY_IDENTITY),
    # A comma ends the member: this excludes gzip, and lists a coding 5.
    (";q=0,5", ONLY_IDENTITY),
    # No weight
    (";q=", ONLY_IDENTITY),
    (";q", ONLY_IDENTITY),
    (";q=1.5", ONLY_IDENTITY),
    (";q=2", ONLY_IDENTITY),
    (";q=10", ONLY_IDENTITY),
    (";q=1.001", ONLY_IDENTITY),
    (";q=1.0000", ONLY_IDENTITY),
    (";q=0.0000", ONLY_IDENTITY),
    (";q=0.9999", ONLY_IDENTITY),
    (";q=00.9", ONLY_IDENTITY),
    (";q=01", ONLY_IDENTITY),
    (";q=.9", ONLY_IDENTITY),
    (";q=.", ONLY_IDENTITY),
    (";q=-1", ONLY_IDENTITY),
    (";q=-0", ONLY_IDENTITY),
    (";q=+1", ONLY_IDENTITY),
    (";q=1e0", ONLY_IDENTITY),
    (";q=0x1", ONLY_IDENTITY),
    (";q=1_0", ONLY_IDENTITY),
    (";q=nan", ONLY_IDENTITY),
    (";q=inf", ONLY_IDENTITY),
    (";q=one", ONLY_IDENTITY),
    (';q="1"', ONLY_IDENTITY),
    (";q=1%", ONLY_IDENTITY),
    (";q=\uff11", ONLY_IDENTITY),  # full-width
    (";q=\u0661", ONLY_IDENTITY),  # Arabic
    (";q=0.\u0665", ONLY_IDENTITY),
    (";q =1", ONLY_IDENTITY),
    (";q= 1", ONLY_IDENTITY),
    (";q=1 .0", ONLY_IDENTITY),
    (";qq=1", ONLY_IDENTITY),
    (";weight=1", ONLY_IDENTITY),
    (";q=1\n", ONLY_IDENTITY),
]


@pytest.mark.parametrize(("weight", "groups"), WEIGHTS)
def test_weight_of_gzip_is_compared_with_that_of_identity(weight: str, groups: Groups) -> None:
    assert preferences(f"gzip{weight}, identity;q=0.5") == groups
    assert preferences(f"identity;q=0.5,gzip{weight}") == groups


@pytest.mark.parametrize("weight", ["", ";q=1", ";q=0.001", "; Q=1.000"])
def test_gzip_of_any_weight_is_preferred_to_an_unlisted_identity(weight: str) -> None:
    assert preferences(f"gzip{weight}") == GZIP_FIRST


WEIGHED = st.none() | st.integers(0, 1000)


@settings(deadline=None, max_examples=300)
@given(WEIGHED, WEIGHED, WEIGHED, WEIGHED, st.permutations(["gzip", "zstd", "identity", "*"]))
def test_weights_agree_with_werkzeug(
    gzip: int | None, zstd: int | None, identity: int | None, others: int | None, order: list[str]
) -> None:
    thousandths = {"gzip": gzip, "zstd": zstd, "identity": identity, "*": others}
    field = ", ".join(f"{name};q={weight / 1000:.3f}" for name in order if (weight := thousandths[name]) is not None)
    theirs = {coding: parse_accept_header(field, Accept).quality(coding) for coding in Coding}
    if identity is None and others is None:
        theirs[Coding.IDENTITY] = 0.0005  # werkzeug does not know that it is acceptable where nothing excludes it
    expected = []
    for quality in sorted(set(theirs.values()) - {0}, reverse=True):
        expected.append(tuple(coding for coding in EITHER if theirs[coding] == quality))
        expected.append(tuple(coding for coding in IDENTITY if theirs[coding] == quality))
    assert preferences(field) == tuple(filter(None, expected))


NEARLY = st.text("gzipsdenty*;q=01., \tQ-x", max_size=40)
FIELDS = st.text(max_size=40) | NEARLY | NEARLY.map("gzip;q={}".format)


@settings(deadline=None, max_examples=500)
@given(FIELDS)
def test_any_text_accepts_each_coding_at_most_once(field: str) -> None:
    codings = [coding for group in preferences(field) for coding in group]
    assert len(set(codings)) == len(codings)
    if "identity" not in field.lower() and "*" not in field:
        assert codings[-1] is Coding.IDENTITY
    for compressed in COMPRESSED:
        if compressed not in field.lower() and "*" not in field:
            assert compressed not in codings


@settings(deadline=None)
@given(FIELDS)
def test_invalid_members_do_not_change_the_valid_ones(garbage: str) -> None:
    if not re.search(r"[,*]|gzip|zstd|identity", garbage, re.IGNORECASE):
        for field in ("gzip;q=0.2, identity;q=0.4", "gzip;q=0.4, identity;q=0.2", "zstd, identity;q=0", "gzip;q=0"):
            assert preferences(f"{garbage},{field}") == preferences(f"{field},{garbage}") == preferences(field)


@pytest.mark.parametrize(
    "field",
    [
        "a" * 8192,
        "," * 8192,
        ";" * 8192,
        " " * 8192,
        "a" + " " * 8190 + "b",
        "a" * 4096 + " " * 4096 + "x",
        "a" + " \t" * 4095 + ";",
        "a;q=0." + "0" * 8186,
        "a;q=" * 2048,
        "a ;" * 2730,
        "a;q=1," * 1365,
        "*" * 8192,
    ],
    ids=lambda field: f"{field[:8]}...{field[-4:]}",
)
def test_field_of_8_kilobytes_is_parsed_at_once(field: str) -> None:
    begun = thread_time()
    for _ in range(10):
        assert preferences(field) == ONLY_IDENTITY
    assert thread_time() - begun < 1


def test_codings_have_the_names_that_are_sent() -> None:
    assert [coding.value for coding in Coding] == ["identity", "gzip", "zstd"]
