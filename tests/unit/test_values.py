"""Texts as values of the type of a column: accepted ones and their form, and refused ones."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.source.catalog.moments import is_date, next_day
from streamer.source.catalog.values import READERS, is_certain, read_value
from streamer.source.dataset import Column

EXAMPLES = 100
LONE_SURROGATE = "\ud800"
SENTENCE_STARTS = ("must be ", "must have ")


def column(type_name: str, length: int | None = None) -> Column:
    return Column(name="c", declared=type_name, type=type_name, length=length)


INTEGERS = [
    ("int2", "-32768"),
    ("int2", "32767"),
    ("int4", "-2147483648"),
    ("int4", "2147483647"),
    ("int8", "-9223372036854775808"),
    ("int8", "9223372036854775807"),
    ("int8", "0"),
    ("int8", "+1"),
    ("int8", "-0"),
    ("int8", "00000000000000000042"),
]


@pytest.mark.parametrize(("type_name", "text"), INTEGERS)
def test_integer_within_its_bounds_stays_as_written(type_name: str, text: str) -> None:
    assert read_value(column(type_name), text) == text


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("int2", "-32769"),
        ("int2", "32768"),
        ("int4", "-2147483649"),
        ("int4", "2147483648"),
        ("int8", "-9223372036854775809"),
        ("int8", "9223372036854775808"),
        ("int8", "9" * 21),
        ("int8", "9" * 100_000),
        ("int8", ""),
        ("int8", " 1"),
        ("int8", "1 "),
        ("int8", "1\n"),
        ("int8", "+"),
        ("int8", "--1"),
        ("int8", "1.0"),
        ("int8", "1e3"),
        ("int8", "0x10"),
        ("int8", "1_000"),
        ("int8", "1,000"),
        ("int8", "\uff11\uff12"),  # full-width digits, which int() reads
        ("int8", "\u0663"),  # an Arabic-Indic digit
        ("int8", "1\0"),
        ("int8", LONE_SURROGATE),
        ("int8", "true"),
        ("int8", "1; DROP TABLE users"),
    ],
)
def test_text_that_is_no_integer_of_its_size_is_refused(type_name: str, text: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number from -"):
        read_value(column(type_name), text)


def test_refused_integer_has_the_bounds_of_its_type_in_its_error() -> None:
    with pytest.raises(ValueError, match="from -32768 to 32767, not '40000'"):
        read_value(column("int2"), "40000")


@pytest.mark.parametrize("type_name", ["numeric", "float8"])
@pytest.mark.parametrize(
    "text", ["0", "-0", "+1", "1.", ".5", "-1.50", "1e3", "1E+3", "12.5e-3", "1e308", "9" * 300, "0." + "1" * 398]
)
def test_finite_number_stays_as_written(type_name: str, text: str) -> None:
    assert read_value(column(type_name), text) == text
    assert is_certain(column(type_name), text)


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        *((name, text) for name in ("numeric", "float4", "float8") for text in ("NaN", "nan", "Infinity", "-inf")),
        *((name, text) for name in ("numeric", "float4", "float8") for text in ("1e400", "-1e999", "9" * 310)),
        ("numeric", "0" * 401),
        ("float4", "3.4028235e+38"),  # as PostgreSQL prints the largest one
        ("float4", "1e-45"),  # and the smallest
        ("float4", "1e39"),
        ("float8", "1e-400"),
    ],
)
def test_number_beyond_what_is_certain_is_left_to_postgresql(type_name: str, text: str) -> None:
    assert read_value(column(type_name), text) == text
    assert not is_certain(column(type_name), text)


@pytest.mark.parametrize("type_name", ["numeric", "float4", "float8"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " 1",
        "1\n",
        "1e99999",  # it would have so many digits
        "infinit",
        "nano",
        "\uff11",
        "\u0661.5",
        "1_000",
        "1,5",
        "1.5.5",
        "1e",
        "e5",
        ".",
        "+",
        "0x1p3",
        "1\0",
        LONE_SURROGATE,
    ],
)
def test_text_that_is_no_number_is_refused(type_name: str, text: str) -> None:
    with pytest.raises(ValueError, match="must be a decimal number"):
        read_value(column(type_name), text)


@pytest.mark.parametrize(
    ("type_name", "length", "text"),
    [
        ("bpchar", 2, "DE"),
        ("bpchar", 2, "D"),
        ("bpchar", 2, ""),
        ("bpchar", 2, "\u00e9\u00e9"),  # characters, not bytes
        ("varchar", 255, "x" * 255),
        ("varchar", None, "x" * 10_000),
        ("text", None, "tab\tand\nlines, 'quotes' \"too\" \\"),
        ("text", None, "\U0001f600\ufeff\u2028"),
    ],
)
def test_text_within_its_length_stays_as_written(type_name: str, length: int | None, text: str) -> None:
    """The encoding of the database may lack characters outside of ASCII: then PostgreSQL is asked."""
    assert read_value(column(type_name, length), text) == text
    assert is_certain(column(type_name, length), text) is text.isascii()


@pytest.mark.parametrize(
    ("type_name", "length", "text", "complaint"),
    [
        ("bpchar", 2, "USA", "must have at most 2 characters, not 3"),
        ("varchar", 255, "x" * 256, "must have at most 255 characters, not 256"),
        ("text", None, "a\0b", "valid Unicode text without NUL"),
        ("bpchar", 2, "\0", "valid Unicode text without NUL"),
        ("varchar", 10, LONE_SURROGATE, "valid Unicode text without NUL"),
        ("text", None, f"a{LONE_SURROGATE}b", "valid Unicode text without NUL"),
    ],
)
def test_text_the_column_cannot_hold_is_refused(type_name: str, length: int | None, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_value(column(type_name, length), text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, "true") for text in ("true", "TRUE", "t", "yes", "Y", "on", "1")),
        *((text, "false") for text in ("false", "False", "f", "F", "no", "n", "off", "0")),
    ],
)
def test_boolean_is_read_as_postgresql_does_in_any_case(text: str, value: str) -> None:
    assert read_value(column("bool"), text) == value


@pytest.mark.parametrize("text", ["", "2", "o", "tr", "00", "si", " true", "true\n", "null", LONE_SURROGATE])
def test_text_that_is_no_boolean_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be true or false"):
        read_value(column("bool"), text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2024-02-29", "2024-02-29"), ("0001-01-01", "0001-01-01"), ("9999-12-31", "9999-12-31")],
)
def test_date_is_a_day_of_the_calendar(text: str, value: str) -> None:
    assert read_value(column("date"), text) == value
    assert is_certain(column("date"), value)


@pytest.mark.parametrize(
    "text", ["infinity", "-infinity", "0044-03-15 BC", "0001-02-29 BC", "10000-01-01", "5874897-12-31"]
)
def test_date_beyond_the_calendar_of_python_is_left_to_postgresql(text: str) -> None:
    assert read_value(column("date"), text) == text
    assert not is_certain(column("date"), text)


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "2023-02-29",
        "2024-13-01",
        "2024-00-10",
        "0000-01-01",
        "0000-01-01 BC",
        "0002-02-29 BC",
        "12023-02-29",
        "12345678-01-01",
        "-0001-01-01",
        "2024-1-1",
        "2024-01-01 ",
        "2024-01-01T00:00",
        "01.02.2024",
        "\uff12024-01-01",
        "+infinity",
        "today",
        "2024-01-01\0",
        LONE_SURROGATE,
    ],
)
def test_text_that_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a date such as 2024-12-31"):
        read_value(column("date"), text)


@pytest.mark.parametrize(
    ("text", "zoned", "plain"),
    [
        ("2024-12-31", "2024-12-31T00:00:00+00:00", "2024-12-31T00:00:00"),
        ("2024-12-31T23:59:59", "2024-12-31T23:59:59+00:00", "2024-12-31T23:59:59"),
        ("2024-12-31 23:59:59", "2024-12-31T23:59:59+00:00", "2024-12-31T23:59:59"),
        ("2024-12-31T23:59:59Z", "2024-12-31T23:59:59+00:00", "2024-12-31T23:59:59"),
        ("2024-12-31T23:59:59.25Z", "2024-12-31T23:59:59.250000+00:00", "2024-12-31T23:59:59.250000"),
        ("2024-12-31T23:59:59-01:00", "2025-01-01T00:59:59+00:00", "2025-01-01T00:59:59"),
        ("2024-12-31T01:00+05:30", "2024-12-30T19:30:00+00:00", "2024-12-30T19:30:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00"),
        ("0001-01-01T05:00:00+05:00", "0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00"),
        ("2024-12-31t23:59:59z", "2024-12-31T23:59:59+00:00", "2024-12-31T23:59:59"),
        ("2024-12-31 23:59:59+00", "2024-12-31T23:59:59+00:00", "2024-12-31T23:59:59"),
        ("2024-12-31T23:59:59.1234560Z", "2024-12-31T23:59:59.123456+00:00", "2024-12-31T23:59:59.123456"),
        ("2024-12-31T23:59:59.000000000Z", "2024-12-31T23:59:59+00:00", "2024-12-31T23:59:59"),
        ("0001-12-31T23:00:00-02:00 BC", "0001-01-01T01:00:00+00:00", "0001-01-01T01:00:00"),
        ("1890-01-01T00:53:28+00:53:28", "1890-01-01T00:00:00+00:00", "1890-01-01T00:00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999999"),
    ],
)
def test_timestamp_is_converted_to_utc(text: str, zoned: str, plain: str) -> None:
    for type_name, value in (("timestamptz", zoned), ("timestamp", plain)):
        assert read_value(column(type_name), text) == value
        assert read_value(column(type_name), value) == value
        assert is_certain(column(type_name), value)


@pytest.mark.parametrize(
    ("text", "plain", "zone", "era"),
    [
        ("infinity", "infinity", "", ""),
        ("-Infinity", "-infinity", "", ""),
        ("2024-12-31T23:59:59.1234567Z", "2024-12-31T23:59:59.1234567", "+00:00", ""),  # .NET
        ("2024-12-31T23:59:59.123456789-01:00", "2025-01-01T00:59:59.123456789", "+00:00", ""),  # Go, Java
        ("12024-01-01 00:00:00+00", "12024-01-01T00:00:00", "+00:00", ""),
        ("12024-02-29", "12024-02-29T00:00:00", "+00:00", ""),
        ("0044-03-15 12:00:00+00 BC", "0044-03-15T12:00:00", "+00:00", " BC"),
        ("0001-02-29 BC", "0001-02-29T00:00:00", "+00:00", " BC"),
        ("4714-11-24 00:00:00+00 BC", "4714-11-24T00:00:00", "+00:00", " BC"),
        ("0001-01-01T00:00:00+05:00", "0001-12-31T19:00:00", "+00:00", " BC"),
        ("9999-12-31T23:59:59-00:01", "10000-01-01T00:00:59", "+00:00", ""),
    ],
)
def test_uncertain_timestamp_is_converted_to_utc_and_left_to_postgresql(
    text: str, plain: str, zone: str, era: str
) -> None:
    for type_name, value in (("timestamptz", plain + zone + era), ("timestamp", plain + era)):
        assert read_value(column(type_name), text) == value
        assert read_value(column(type_name), value) == value
        assert not is_certain(column(type_name), value)


@pytest.fixture
def five_hours_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_timestamp_without_a_zone_is_utc_in_any_zone_of_the_server(five_hours_west: None) -> None:
    assert datetime(2024, 12, 31).astimezone().utcoffset() == timedelta(hours=-5)
    assert read_value(column("timestamptz"), "2024-12-31") == "2024-12-31T00:00:00+00:00"
    assert read_value(column("timestamp"), "2024-12-31T10:00") == "2024-12-31T10:00:00"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("2024-12-31 23:59:59 00", True),
        ("2024-12-31T23:59:59.5 02:00", True),
        ("2024-12-31 00", False),
        ("today now", False),
    ],
)
def test_zone_without_its_plus_sign_is_refused_with_the_escape(text: str, *, lost: bool) -> None:
    with pytest.raises(ValueError, match="must be a date or a time") as refused:
        read_value(column("timestamptz"), text)
    assert str(refused.value).endswith("; in a URL a + is written as %2B") is lost


@pytest.mark.parametrize("type_name", ["timestamp", "timestamptz"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-02-30",
        "2024-12-31T24:00:01",
        "2024-12-31T23:60",
        "2024-12-31T23:59:60",
        "2024-12-31T12:00+24:00",
        "2024-12-31T23:59:59 02:00",  # a plus sign that the query string turned into a space
        "2024-12-31T12:00+05:60",
        "2024-12-31 BCE",
        "2024-12-31 BC 10:00",
        "0000-01-01",
        "0001-02-29T00:00",
        "12345678-01-01",
        "now",
        "31.12.2024",
        "12/31/2024",
        "1704067200",
        "\uff12024-01-01",
        "2024-12-31T\u0661\u0662:00",
        "2024-12-31\0",
        LONE_SURROGATE,
    ],
)
def test_text_that_is_no_timestamp_is_refused(type_name: str, text: str) -> None:
    with pytest.raises(ValueError, match="must be a date or a time such as 2024-12-31"):
        read_value(column(type_name), text)


@pytest.mark.parametrize(
    "text",
    [
        "12345678-1234-5678-1234-56781234abcd",
        "12345678-1234-5678-1234-56781234ABCD",
        "1234567812345678123456781234abcd",
        "{12345678-1234-5678-1234-56781234abcd}",
    ],
)
def test_uuid_is_returned_in_its_canonical_form(text: str) -> None:
    assert read_value(column("uuid"), text) == "12345678-1234-5678-1234-56781234abcd"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "12345678-1234-5678-1234-56781234abcg",
        "12345678-1234-5678-1234-56781234abcd0",
        "\uff112345678-1234-5678-1234-56781234abcd",
        "12345678-1234-5678-1234-56781234abcd\0",
        LONE_SURROGATE,
    ],
)
def test_text_that_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a UUID"):
        read_value(column("uuid"), text)


@pytest.mark.parametrize("type_name", ["jsonb", "_int4", "interval", "bytea", "kinds.int4"])
def test_value_of_another_type_is_left_to_postgresql_if_it_is_text(type_name: str) -> None:
    assert not is_certain(column(type_name), "whatever")
    assert read_value(column(type_name), "whatever, \u00e9") == "whatever, \u00e9"
    for text in ("a\0b", LONE_SURROGATE):
        with pytest.raises(ValueError, match="valid Unicode text without NUL"):
            read_value(column(type_name), text)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("2024-12-31", True),
        ("0001-01-01", True),
        ("0044-03-15 BC", True),
        ("12024-01-01", True),
        ("infinity", False),
        ("2024-12-31T00:00", False),
        ("2024-12-31 ", False),
        ("2024-12-31\n", False),
        ("\uff12024-12-31", False),
        ("", False),
    ],
)
def test_date_is_distinguished_from_a_timestamp(text: str, bare: bool) -> None:
    assert is_date(text) is bare


def outcome(type_name: str, text: str) -> tuple[str | None, str]:
    """The value, or None and why not."""
    try:
        return read_value(column(type_name, length=5), text), ""
    except ValueError as refused:
        return None, str(refused)


@pytest.mark.parametrize("type_name", sorted(READERS))
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    text=st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=60),
        st.text("0123456789-+:.eETZ \r\n\0\x1b\u2028\ud800", max_size=60),
    )
)
def test_any_text_is_read_or_refused_in_one_printable_line(type_name: str, text: str) -> None:
    value, sentence = outcome(type_name, text)
    if value is None:
        assert sentence.startswith(SENTENCE_STARTS)
        assert sentence.isprintable()
    else:
        assert "\0" not in value
        assert value.encode().decode() == value


@pytest.mark.parametrize("type_name", sorted(READERS.keys() - {"text", "varchar", "bpchar"}))
def test_refused_text_of_any_length_is_shown_short(type_name: str) -> None:
    with pytest.raises(ValueError, match=r"^must be ") as refused:
        read_value(column(type_name), "\x1b[31m\n" * 10_000)
    assert len(str(refused.value)) < 400
    assert str(refused.value).isprintable()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from([16, 32, 64]), st.integers(-(2**65), 2**65))
def test_integer_is_accepted_exactly_when_the_type_can_hold_it(bits: int, number: int) -> None:
    integer = column(f"int{bits // 8}")
    if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        assert read_value(integer, str(number)) == str(number)
    else:
        with pytest.raises(ValueError, match="whole number"):
            read_value(integer, str(number))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.decimals(allow_nan=False, allow_infinity=False, places=9))
def test_any_finite_number_keeps_all_its_digits(real: float, exact: Decimal) -> None:
    assert read_value(column("float8"), repr(real)) == repr(real)
    assert read_value(column("numeric"), f"{exact:f}") == f"{exact:f}"


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),
    st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_any_timestamp_keeps_its_moment(moment: datetime, zone: timezone | None) -> None:
    given_moment = moment.replace(tzinfo=zone)
    value = read_value(column("timestamptz"), given_moment.isoformat())
    assert datetime.fromisoformat(value) == moment.replace(tzinfo=zone or UTC)
    assert value.endswith("+00:00")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dates(max_value=date(9999, 12, 30)))
def test_day_after_any_day_is_the_next(day: date) -> None:
    assert next_day(day.isoformat()) == (day + timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("day", "morrow"),
    [
        ("9999-12-31", "10000-01-01"),
        ("0044-02-28 BC", "0044-03-01 BC"),
        ("0045-02-28 BC", "0045-02-29 BC"),
        ("0001-12-31 BC", "0001-01-01"),
        ("12399-12-31", "12400-01-01"),
        ("12400-02-28", "12400-02-29"),
    ],
)
def test_day_after_a_day_beyond_the_calendar_of_python(day: str, morrow: str) -> None:
    assert next_day(day) == morrow


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dates(), st.uuids())
def test_any_day_and_any_uuid_are_accepted(day: date, identifier: UUID) -> None:
    assert read_value(column("date"), day.isoformat()) == day.isoformat()
    assert read_value(column("uuid"), str(identifier)) == str(identifier)
