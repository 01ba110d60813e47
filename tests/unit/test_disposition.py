"""Content-Disposition (RFC 6266): how a hostile name is cleaned, and that parsers read the safe name from one line."""

import re
import unicodedata
from datetime import datetime, timedelta, timezone
from email.message import Message
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from werkzeug.http import parse_options_header

from streamer.model import Condition, Dialect, ExportSpec, Operator
from streamer.protocol.disposition import (
    MAX_FILTER,
    MAX_NAME,
    MAX_STEM,
    ContentDescription,
    attachment,
    default_filename,
    safe_filename,
)

SAFE = [
    # As they are
    ("export.csv", "export.csv"),
    ("my export (1).csv", "my export (1).csv"),
    ("a.tar.gz", "a.tar.gz"),
    ("it's;a=b,c.csv", "it's;a=b,c.csv"),
    ("a..b.csv", "a..b.csv"),
    ("\u5317\u4eac.csv", "\u5317\u4eac.csv"),
    ("\U0001f600.csv", "\U0001f600.csv"),
    ("\U0001f469\u200d\U0001f4bb.csv", "\U0001f469\u200d\U0001f4bb.csv"),
    ("e\u0301.csv", "e\u0301.csv"),
    # jshttp content-disposition, src/create.spec.ts: its names. It escapes, or keeps a path; here both are taken out.
    ("plans.pdf", "plans.pdf"),
    ("/path/to/plans.pdf", "_path_to_plans.pdf"),
    ("\\path\\to\\plans.pdf", "_path_to_plans.pdf"),
    ("C:\\path\\to\\plans.pdf", "C__path_to_plans.pdf"),
    ("/path/to/plans.pdf///", "_path_to_plans.pdf___"),
    ("\\path\\to\\plans.pdf\\\\\\", "_path_to_plans.pdf___"),
    ('the "plans".pdf', "the _plans_.pdf"),
    ("\xabplans\xbb.pdf", "\xabplans\xbb.pdf"),
    ('the "plans" (1\xb5).pdf', "the _plans_ (1\xb5).pdf"),
    ("\u20ac'*%().pdf", "\u20ac'_%().pdf"),
    ("the%20plans.pdf", "the%20plans.pdf"),
    # Folders
    ("../../etc/passwd", "_.._etc_passwd"),
    ("..\\..\\boot.ini", "_.._boot.ini"),
    ("/etc/passwd", "_etc_passwd"),
    ("a/../../b.csv", "a_.._.._b.csv"),
    ("C:autorun.inf", "C_autorun.inf"),
    ("file.csv::$DATA", "file.csv__$DATA"),
    # Dots and spaces at the ends: a file that hides, or that Windows names otherwise
    (".htaccess", "htaccess"),
    ("...csv", "csv"),
    (". . a . .", "a"),
    ("  a.csv  ", "a.csv"),
    ("a.csv.", "a.csv"),
    ("a.csv...", "a.csv"),
    # Nothing left
    ("", ""),
    (".", ""),
    ("..", ""),
    ("." * 500, ""),
    ("   ", ""),
    (" . . ", ""),
    # The field itself
    ('a"; filename="b.exe', "a_; filename=_b.exe"),
    ("a\r\nSet-Cookie: b=c", "a__Set-Cookie_ b=c"),
    ("a\r\n\r\n<html>", "a_____html_"),
    ("a\nb", "a_b"),
    ("a\rb", "a_b"),
    ("a\\", "a_"),
    # Controls
    ("a\x00.csv", "a_.csv"),
    ("\x1b[31m", "_[31m"),
    ("a\tb\x0bc\x0cd\x7f", "a_b_c_d_"),
    ("a\x80b\x85c\x9f", "a_b_c_"),
    # Shell and file system
    ("a*b?c<d>e|f:g", "a_b_c_d_e_f_g"),
    # Text that runs backwards
    ("\u202egpj.exe", "_gpj.exe"),
    ("a\u202ab\u202bc\u202cd\u202de\u202ef", "a_b_c_d_e_f"),
    ("a\u2066b\u2067c\u2068d\u2069e", "a_b_c_d_e"),
    # Octets that are no UTF-8
    ("\ud800.csv", "_.csv"),
    ("a\udcff\udfffb", "a__b"),
    # Long
    ("a" * MAX_NAME, "a" * MAX_NAME),
    ("a" * (MAX_NAME + 1), "a" * MAX_NAME),
    ("a" * 1_000_000, "a" * MAX_NAME),
    ("a" * (MAX_NAME - 1) + ". b", "a" * (MAX_NAME - 1)),  # what is cut ends neither in a dot nor in a space
    ("." * 1000 + "a", "a"),
    (" " * 1000 + "a" * 1000 + " " * 1000, "a" * MAX_NAME),
]


@pytest.mark.parametrize(("name", "safe"), [pytest.param(*row, id=f"{row[0][:40]!a}") for row in SAFE])
def test_name_becomes_safe(name: str, safe: str) -> None:
    assert safe_filename(name) == safe


VALUES = [
    ("export.csv", 'attachment; filename="export.csv"'),
    ("a b;c=d,e'f.csv", 'attachment; filename="a b;c=d,e\'f.csv"'),
    # RFC 6266, 5 and appendix D; RFC 8187, 3.2.3
    ("\u20ac rates", "attachment; filename=\"_ rates\"; filename*=UTF-8''%E2%82%AC%20rates"),
    (
        "\xa3 and \u20ac rates",
        "attachment; filename=\"_ and _ rates\"; filename*=UTF-8''%C2%A3%20and%20%E2%82%AC%20rates",
    ),
    # jshttp content-disposition, src/create.spec.ts, which writes ? where _ stands here
    ("\xabplans\xbb.pdf", "attachment; filename=\"_plans_.pdf\"; filename*=UTF-8''%C2%ABplans%C2%BB.pdf"),
    ("foo-\xe4.html", "attachment; filename=\"foo-_.html\"; filename*=UTF-8''foo-%C3%A4.html"),
    (
        "\u043f\u043b\u0430\u043d\u044b.pdf",
        "attachment; filename=\"_____.pdf\"; filename*=UTF-8''%D0%BF%D0%BB%D0%B0%D0%BD%D1%8B.pdf",
    ),
    ("\u20ac'_%().pdf", "attachment; filename=\"_'_%().pdf\"; filename*=UTF-8''%E2%82%AC%27_%25%28%29.pdf"),
    ("\U0001f600.csv", "attachment; filename=\"_.csv\"; filename*=UTF-8''%F0%9F%98%80.csv"),
    # RFC 8187, 3.2.1: every attr-char stands for itself, nothing else does
    (
        "\xe9aZ09!#$&+-.^_`~ ,;='()@[]{}",
        'attachment; filename="_aZ09!#$&+-.^_`~ ,;=\'()@[]{}"; '
        "filename*=UTF-8''%C3%A9aZ09!#$&+-.^_`~%20%2C%3B%3D%27%28%29%40%5B%5D%7B%7D",
    ),
]


@pytest.mark.parametrize(("filename", "value"), [pytest.param(*row, id=f"{row[0]!a}") for row in VALUES])
def test_safe_name_is_formatted_plain_and_if_needed_extended(filename: str, value: str) -> None:
    assert attachment(filename) == value


ATTR_CHAR = r"[A-Za-z0-9!#$&+.^_`|~-]"  # RFC 8187, 3.2.1
VALUE = re.compile(
    rf"""attachment;\ filename="(?P<plain>[\x20\x21\x23-\x5b\x5d-\x7e]+)"
    (?:;\ filename\*=UTF-8''(?P<extended>(?:{ATTR_CHAR}|%[0-9A-F]{{2}})+))?""",
    re.VERBOSE,
)
HOSTILE = st.text(
    st.sampled_from("ab.  /\\\"':;*?<>|%=,\r\n\0\x7f\x85\xe9\u20ac\u202e\u2066\ud800\udfff\U0001f600"), max_size=300
)
HOSTILE_NAMES = st.text(max_size=300) | HOSTILE


@settings(deadline=None, max_examples=500)
@given(HOSTILE_NAMES)
@example("a" * (MAX_NAME - 1) + "\U0001f600" * 10)
@example(". ." * 100)
def test_cleaning_a_name_is_idempotent_and_makes_it_safe(name: str) -> None:
    safe = safe_filename(name)
    assert len(safe) <= MAX_NAME
    assert safe == safe.strip(" .")
    assert not set(safe) & set('/\\":*?<>|')
    assert not [each for each in safe if unicodedata.category(each) in ("Cc", "Cs")]
    assert not [each for each in safe if unicodedata.bidirectional(each) in {"LRE", "RLE", "LRO", "RLO", "PDF"}]
    assert not [each for each in safe if unicodedata.bidirectional(each) in {"LRI", "RLI", "FSI", "PDI"}]
    assert safe_filename(safe) == safe


@settings(deadline=None, max_examples=500)
@given(HOSTILE_NAMES.map(safe_filename).filter(bool))
def test_safe_name_is_parsed_from_one_line_of_ascii(safe: str) -> None:
    value = attachment(safe)
    found = VALUE.fullmatch(value)
    assert found
    if found["extended"] is None:
        assert found["plain"] == safe
    else:
        assert unquote(found["extended"], errors="strict") == safe
        assert len(found["plain"]) == len(safe)
        assert all(plain in (ours, "_") for plain, ours in zip(found["plain"], safe, strict=True))


@settings(deadline=None)
@given(HOSTILE_NAMES.map(safe_filename).filter(bool))
def test_other_parsers_agree_on_the_safe_name(safe: str) -> None:
    assert parse_options_header(attachment(safe)) == ("attachment", {"filename": safe})
    message = Message()
    message["Content-Disposition"] = attachment(safe)
    assert message.get_content_disposition() == "attachment"
    plain = message.get_param("filename", header="Content-Disposition")
    assert isinstance(plain, str)
    assert f'filename="{plain}"' in attachment(safe)


@pytest.mark.parametrize("character", ["\u0436", "\u5317", "\U0001f600"], ids=["2 bytes", "3 bytes", "4 bytes"])
def test_long_name_outside_ascii_fits_a_file_system(character: str) -> None:
    assert len(safe_filename(character * 1000 + ".csv").encode()) <= 255


@pytest.mark.parametrize("mark", ["\u061c", "\u200e", "\u200f"], ids=["ALM", "LRM", "RLM"])
def test_bidirectional_control_characters_are_removed(mark: str) -> None:
    assert mark not in safe_filename(f"a{mark}b.csv")


def test_name_with_a_percent_escape_is_also_formatted_extended() -> None:
    found = VALUE.fullmatch(attachment("the%2Fplans.pdf"))
    assert found
    assert found["extended"] == "the%252Fplans.pdf"


def spec(dataset: str = "users", **equal: tuple[str, ...]) -> ExportSpec:
    conditions = (Condition(column=name, operator=Operator.EQ, values=values) for name, values in equal.items())
    return ExportSpec(dataset=dataset, columns=("id",), conditions=tuple(conditions))


NIGHT = datetime(2026, 11, 22, 0, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (spec(), "users_2026-11-21.csv"),
        (spec(country_code=("US",)), "users_US_2026-11-21.csv"),
        (spec(country_code=("US", "DE"), tier=("free",)), "users_US-DE_free_2026-11-21.csv"),
        (spec(email=("somebody@example.org",)), "users_2026-11-21.csv"),
        (spec(a=("1",), b=("2",), c=("3",), d=("4",)), "users_1_2_3_2026-11-21.csv"),
        (spec(a=("../../etc",)), "users_etc_2026-11-21.csv"),
        (spec(a=("",)), "users_2026-11-21.csv"),
        (spec(a=("Ü b",)), "users_Ü-b_2026-11-21.csv"),
        (spec('sales."Order Lines"'), "sales.-Order-Lines_2026-11-21.csv"),
        (spec(a=("x" * MAX_FILTER,), b=("x" * (MAX_FILTER + 1),)), f"users_{'x' * MAX_FILTER}_2026-11-21.csv"),
        (spec("a" * (MAX_STEM + 1)), f"{'a' * MAX_STEM}_2026-11-21.csv"),
        (spec("a" + "ж" * MAX_STEM), f"a{'ж' * ((MAX_STEM - 1) // 2)}_2026-11-21.csv"),  # no half of a character
        (spec("..."), "export_2026-11-21.csv"),
        (spec("\0\n/"), "export_2026-11-21.csv"),
    ],
)
def test_default_name_has_the_dataset_the_filters_and_the_day(asked: ExportSpec, name: str) -> None:
    assert default_filename(asked, NIGHT) == name


@pytest.mark.parametrize("header", [True, False])
def test_description_has_the_name_and_tells_a_header(header: bool) -> None:
    asked = msgspec.structs.replace(spec(), dialect=Dialect(header=header))
    assert ContentDescription.of(asked, NIGHT) == ContentDescription("users_2026-11-21.csv", header)


def test_description_of_a_request_that_cannot_be_read_knows_of_no_header() -> None:
    assert ContentDescription.of(None, NIGHT) == ContentDescription("export_2026-11-21.csv", None)


def test_default_name_has_only_filters_of_equality() -> None:
    conditions = (Condition(column="n", operator=Operator.NE, values=("1",)),)
    assert default_filename(msgspec.structs.replace(spec(), conditions=conditions), NIGHT) == "users_2026-11-21.csv"


@settings(deadline=None)
@given(HOSTILE_NAMES, HOSTILE_NAMES)
def test_default_name_is_safe_and_short(dataset: str, value: str) -> None:
    name = default_filename(spec(dataset, column=(value,)), NIGHT)
    assert safe_filename(name) == name
    assert name.endswith("_2026-11-21.csv")
    assert len(name.encode()) <= 200
