"""CSV records: which characters a dialect may have, how a record is written, and how records are counted.

The rules of COPY stand in tables. Python's csv module, which knows nothing of this house, reads back what was written.
"""

import csv
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.formats.dialect import check_character, check_null, prologue
from streamer.formats.records import RecordWriter, count_records, first_records
from streamer.model import Dialect

CHARACTERS = [chr(code) for code in range(1, 128) if chr(code) not in "\r\n"]
EXAMPLES = 150

Table = list[list[str | None]]

dialects = st.lists(st.sampled_from(CHARACTERS), min_size=2, max_size=2, unique=True).map(
    lambda pair: Dialect(delimiter=pair[0], quote=pair[1])
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Dialect, Table]:
    """A dialect, and rows of one width in which its special characters are common."""
    dialect = draw(dialects)
    special = st.text(st.sampled_from(dialect.delimiter + dialect.quote + "\r\n\\.aé"), max_size=8)
    fields = st.one_of(st.none(), special, st.text(max_size=8), st.just("\\."))
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(fields, min_size=width, max_size=width), max_size=8))
    return dialect, rows


def written(dialect: Dialect, rows: Table) -> bytes:
    return RecordWriter(dialect, len(rows[0]) if rows else 1).records(rows)


@pytest.mark.parametrize("character", CHARACTERS)
def test_every_ascii_character_but_nul_and_line_breaks_is_allowed(character: str) -> None:
    assert check_character(character) == character


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "exactly one ASCII character"),
        (",,", "exactly one ASCII character"),
        ("\r\n", "exactly one ASCII character"),
        ("é", "exactly one ASCII character"),
        ("，", "exactly one ASCII character"),  # noqa: RUF001 - a full-width comma is meant
        ("\u00a0", "exactly one ASCII character"),
        ("\ud800", "exactly one ASCII character"),
        ("\0", "exactly one ASCII character"),
        ("\n", "must not be a line break"),
        ("\r", "must not be a line break"),
    ],
)
def test_other_text_is_refused_with_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        check_character(text)
    assert str(refused.value).isprintable()


def test_refused_text_is_shortened_in_the_sentence() -> None:
    with pytest.raises(ValueError, match="exactly one") as refused:
        check_character("x" * 100_000)
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        (["1", "Ann", "DE"], "1,Ann,DE\n"),
        ([None, None, None], ",,\n"),
        (["", None, ""], '"",,""\n'),
        (["a,b", "c"], '"a,b",c\n'),
        (['say "no"', "x"], '"say ""no""",x\n'),
        (['"', "x"], '"""",x\n'),
        (["two\nlines", "x"], '"two\nlines",x\n'),
        (["carriage\rreturn", "x"], '"carriage\rreturn",x\n'),
        (["\r\n", "x"], '"\r\n",x\n'),
        ([" leading", "trailing "], " leading,trailing \n"),
        (["semi;colon", "tab\tstop"], "semi;colon,tab\tstop\n"),
        (["NULL", r"\N"], "NULL,\\N\n"),
        (["back\\slash", "x"], "back\\slash,x\n"),
        (["\u2028", "\x0b\x0c\x85"], "\u2028,\x0b\x0c\x85\n"),  # line ends to str.splitlines, not to CSV
        (["北京", "\U0001f600"], "北京,\U0001f600\n"),
        (["\\.", "x"], "\\.,x\n"),
    ],
)
def test_record_of_the_default_dialect(fields: list[str | None], record: str) -> None:
    assert RecordWriter(Dialect(), len(fields)).record(fields) == record


@pytest.mark.parametrize(
    ("field", "record"),
    [
        (None, "\n"),
        ("", '""\n'),
        ("\\.", '"\\."\n'),
        ("\\.x", "\\.x\n"),
        (" \\.", " \\.\n"),
        ("plain", "plain\n"),
    ],
)
def test_record_of_one_column_quotes_the_end_of_data_mark(field: str | None, record: str) -> None:
    assert RecordWriter(Dialect(), 1).record([field]) == record


@pytest.mark.parametrize(
    ("dialect", "record"),
    [
        (Dialect(delimiter=";"), 'a,b;"c;d";e\'f;"g""h"\n'),
        (Dialect(delimiter="\t", quote="'"), "a,b\tc;d\t'e''f'\tg\"h\n"),
        (Dialect(delimiter="b", quote="d"), "da,bdbdc;dddbe'fbg\"h\n"),
    ],
)
def test_record_of_another_dialect_quotes_only_its_own_characters(dialect: Dialect, record: str) -> None:
    assert RecordWriter(dialect, 4).record(["a,b", "c;d", "e'f", 'g"h']) == record


def test_records_are_utf8_one_after_the_other() -> None:
    rows: Table = [["1", "Zoë"], ["2", None], ["3", "Лев"]]
    assert RecordWriter(Dialect(), 2).records(rows) == "1,Zoë\n2,\n3,Лев\n".encode()
    assert RecordWriter(Dialect(), 2).records([]) == b""


@pytest.mark.parametrize(
    ("chunk", "records"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"1,a\n2,b\n", 2),
        (b'"a\nb"\n', 1),
        (b'"a\n""\nb"\n"\n"\n', 2),
        (b'""""\n""\n', 2),
        (b'"\n""\n"\n\n', 2),
        (b"a\rb\n", 1),
    ],
)
def test_count_is_the_line_feeds_outside_quotes(chunk: bytes, records: int) -> None:
    assert count_records(chunk, b'"') == records
    assert count_records(bytearray(chunk), b'"') == records


def test_count_uses_the_quote_of_the_dialect() -> None:
    assert count_records(b"'a\nb'\n", b"'") == 1
    assert count_records(b"'a\nb'\n", b'"') == 2


@settings(max_examples=EXAMPLES, deadline=None)
@given(tables(), st.data())
def test_count_is_exact_for_any_rows(written_table: tuple[Dialect, Table], data: st.DataObject) -> None:
    dialect, rows = written_table
    quote = dialect.quote.encode()
    cut = data.draw(st.integers(0, len(rows)))
    writer = RecordWriter(dialect, len(rows[0]) if rows else 1)
    first, second = writer.records(rows[:cut]), writer.records(rows[cut:])
    assert first + second == writer.records(rows)
    assert count_records(first, quote) == cut
    assert count_records(second, quote) == len(rows) - cut
    assert count_records(bytearray(first + second), quote) == len(rows)


@settings(max_examples=EXAMPLES, deadline=None)
@given(tables())
def test_csv_module_parses_any_rows_back(written_table: tuple[Dialect, Table]) -> None:
    dialect, rows = written_table
    text = written(dialect, rows).decode()
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True
    )
    # csv has no NULL, and reads an empty line as a record without fields.
    assert [read or [""] for read in reader] == [[field or "" for field in row] for row in rows]


@settings(max_examples=EXAMPLES, deadline=None)
@given(dialects)
def test_null_and_the_empty_text_differ_in_every_dialect(dialect: Dialect) -> None:
    quote = dialect.quote
    assert RecordWriter(dialect, 2).record([None, ""]) == f"{dialect.delimiter}{quote}{quote}\n"
    assert RecordWriter(dialect, 1).record([None]) == "\n"


@pytest.mark.parametrize("text", ["", "NULL", "\\N", "n/a", "-", " ", "é", "x" * 64])
def test_text_for_null_is_any_short_text(text: str) -> None:
    assert check_null(text, ",", '"') == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b", "must not contain the delimiter or the quote"),
        ('"', "must not contain the delimiter or the quote"),
        ("a\nb", "printable"),
        ("\r", "printable"),
        ("\0", "printable"),
        ("\ud800", "printable"),
        ("x" * 65, "at most 64"),
        ("\\.", "end-of-data"),
    ],
)
def test_text_for_null_that_copy_refuses_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_null(text, ",", '"')


def test_a_value_equal_to_the_text_for_null_is_quoted() -> None:
    writer = RecordWriter(Dialect(null="NULL"), 3)
    assert writer.record([None, "NULL", ""]) == 'NULL,"NULL",\n'


@pytest.mark.parametrize(
    ("dialect", "before"),
    [
        (Dialect(), b'a,"b,c"\n'),
        (Dialect(header=False), b""),
        (Dialect(bom=True), b'\xef\xbb\xbfa,"b,c"\n'),
        (Dialect(bom=True, header=False), b"\xef\xbb\xbf"),
        (Dialect(delimiter="\t", null="a"), b'"a"\tb,c\n'),
    ],
)
def test_prologue_is_a_mark_and_names_or_either_or_nothing(dialect: Dialect, before: bytes) -> None:
    assert prologue(dialect, ["a", "b,c"]) == before


def test_column_names_that_look_like_formulas_are_escaped() -> None:
    names = ["a", "=1+1", "+b", "-c", "@d", "\te", "f=", "'g", "\n=h", "\r=i"]
    escaped = b"a,'=1+1,'+b,'-c,'@d,'\te,f=,'g,\"'\n=h\",\"'\r=i\"\n"
    assert prologue(Dialect(escape_formulas=True), names) == escaped
    assert prologue(Dialect(), names) == b'a,=1+1,+b,-c,@d,\te,f=,\'g,"\n=h","\r=i"\n'


@settings(max_examples=EXAMPLES, deadline=None)
@given(tables(), st.data())
def test_first_records_are_the_first_rows(written_table: tuple[Dialect, Table], data: st.DataObject) -> None:
    dialect, rows = written_table
    number = data.draw(st.integers(0, len(rows)))
    chunk = bytearray(written(dialect, rows))
    assert first_records(chunk, dialect.quote.encode(), number) == written(dialect, rows[:number])


def test_first_records_of_a_large_record_take_linear_time() -> None:
    large = b'"' + b"\n" * 2_000_000 + b'"\n'
    begun = time.process_time()
    assert first_records(b"1\n" + large, b'"', 1) == b"1\n"
    assert time.process_time() - begun < 2
