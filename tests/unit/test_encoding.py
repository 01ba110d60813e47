"""Accept-Encoding (RFC 9110, 12.5.3) between identity and gzip, and weights of every form (12.4.2).

A row is (field, codings), the one to send first. Where suites disagree the RFC decides, then the README, and a comment
names the suite that answers otherwise.
"""

from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from streamer.coding import Coding
from streamer.protocol.encoding import acceptable

Codings = tuple[Coding, ...]
Row = tuple[str | None, Codings]

GZIP_FIRST: Codings = (Coding.GZIP, Coding.IDENTITY)
IDENTITY_FIRST: Codings = (Coding.IDENTITY, Coding.GZIP)
ONLY_GZIP: Codings = (Coding.GZIP,)
ONLY_IDENTITY: Codings = (Coding.IDENTITY,)
NOTHING: Codings = ()

RFC_9110: list[Row] = [
    # 12.5.3: its examples
    ("compress, gzip", GZIP_FIRST),
    ("", ONLY_IDENTITY),
    ("*", GZIP_FIRST),
    ("compress;q=0.5, gzip;q=1.0", GZIP_FIRST),
    ("gzip;q=1.0, identity; q=0.5, *;q=0", GZIP_FIRST),
    # 12.5.3: its rules
    (None, IDENTITY_FIRST),  # "any content coding is considered acceptable"
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
    ("x-gzip;q=0, *", ONLY_IDENTITY),
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
    # jshttp negotiator, test/encoding.js, for identity and gzip
    ("*, gzip", GZIP_FIRST),
    ("*, gzip;q=0", ONLY_IDENTITY),
    ("*;q=0, identity;q=1", ONLY_IDENTITY),
    ("gzip, compress;q=0", GZIP_FIRST),
    ("gzip;q=0.8, deflate", GZIP_FIRST),
    ("gzip;q=0.8, identity;q=0.5, *;q=0.3", GZIP_FIRST),
    ("gzip;foo=bar;q=1, deflate;q=1", ONLY_IDENTITY),  # negotiator: gzip; RFC 9110, 12.5.3 has no parameter but q
    ('gzip;foo="bar,baz", deflate', ONLY_IDENTITY),  # negotiator: gzip
]

CLIENTS: list[Row] = [
    ("gzip, deflate, br, zstd", GZIP_FIRST),  # Chromium, Firefox
    ("deflate, gzip, br, zstd", GZIP_FIRST),  # curl --compressed
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
    ("gzip;q=0.2, *;q=0.1", GZIP_FIRST),
    ("gzip;q=0.1, *;q=0.2", IDENTITY_FIRST),
    ("identity;q=0.1, *;q=0.2", GZIP_FIRST),
    ("identity;q=0.2, *;q=0.1", IDENTITY_FIRST),
    ("*;q=0.5", GZIP_FIRST),
    ("gzip;q=0, identity;q=0", NOTHING),
    ("gzip;q=0, *;q=0", NOTHING),
    ("gzip;q=0, *;q=1", ONLY_IDENTITY),
    ("identity;q=0, *;q=1", ONLY_GZIP),
    ("*;q=1, identity;q=0", ONLY_GZIP),
    ("gzip, *;q=0", ONLY_GZIP),
    ("gzip, identity;q=0", ONLY_GZIP),
    ("br, identity;q=0", NOTHING),
    ("br;q=0", ONLY_IDENTITY),
    ("br, *;q=0", NOTHING),
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
    ("br, zstd, deflate, compress", ONLY_IDENTITY),
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
    "duplicates": DUPLICATES,
    "lines": LINES,
    "unreadable": UNREADABLE,
}


@pytest.mark.parametrize(
    ("field", "codings"),
    [pytest.param(*row, id=f"{table}: {row[0]!a}") for table, rows in TABLES.items() for row in rows],
)
def test_field_accepts_the_codings_of_the_table(field: str | None, codings: Codings) -> None:
    assert acceptable(field) == codings


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


@pytest.mark.parametrize(("weight", "codings"), WEIGHTS)
def test_weight_of_gzip_is_compared_with_that_of_identity(weight: str, codings: Codings) -> None:
    assert acceptable(f"gzip{weight}, identity;q=0.5") == codings
    assert acceptable(f"identity;q=0.5,gzip{weight}") == codings


@pytest.mark.parametrize("weight", ["", ";q=1", ";q=0.001", "; Q=1.000"])
def test_gzip_of_any_weight_is_preferred_to_an_unlisted_identity(weight: str) -> None:
    assert acceptable(f"gzip{weight}") == GZIP_FIRST


WEIGHED = st.none() | st.integers(0, 1000)


@settings(deadline=None, max_examples=300)
@given(WEIGHED, WEIGHED, WEIGHED, st.permutations(["gzip", "identity", "*"]))
def test_weights_agree_with_werkzeug(
    gzip: int | None, identity: int | None, others: int | None, order: list[str]
) -> None:
    thousandths = {"gzip": gzip, "identity": identity, "*": others}
    field = ", ".join(f"{name};q={weight / 1000:.3f}" for name in order if (weight := thousandths[name]) is not None)
    theirs = parse_accept_header(field, Accept)
    of_gzip, of_identity = theirs.quality("gzip"), theirs.quality("identity")
    if identity is None and others is None:
        of_identity = 0.0005  # werkzeug does not know that identity is acceptable where nothing excludes it
    expected = [coding for coding in Coding if (of_gzip if coding is Coding.GZIP else of_identity) > 0]
    if of_gzip >= of_identity:
        expected.reverse()
    assert acceptable(field) == tuple(expected)


NEARLY = st.text("gzipdenty*;q=01., \tQ-x", max_size=40)
FIELDS = st.text(max_size=40) | NEARLY | NEARLY.map("gzip;q={}".format)


@settings(deadline=None, max_examples=500)
@given(FIELDS)
def test_any_text_accepts_each_coding_at_most_once(field: str) -> None:
    codings = acceptable(field)
    assert len(set(codings)) == len(codings)
    if "identity" not in field.lower() and "*" not in field:
        assert codings[-1] is Coding.IDENTITY
    if "gzip" not in field.lower() and "*" not in field:
        assert Coding.GZIP not in codings


@settings(deadline=None)
@given(FIELDS)
def test_invalid_members_do_not_change_the_valid_ones(garbage: str) -> None:
    if (
        "," not in garbage
        and "*" not in garbage
        and "gzip" not in garbage.lower()
        and "identity" not in garbage.lower()
    ):
        for field in ("gzip;q=0.2, identity;q=0.4", "gzip;q=0.4, identity;q=0.2", "gzip, identity;q=0", "gzip;q=0"):
            assert acceptable(f"{garbage},{field}") == acceptable(f"{field},{garbage}") == acceptable(field)


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
        assert acceptable(field) == ONLY_IDENTITY
    assert thread_time() - begun < 1


def test_codings_have_the_names_that_are_sent() -> None:
    assert [coding.value for coding in Coding] == ["identity", "gzip"]
