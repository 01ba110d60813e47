"""Dialects: every cursor writes the bytes of COPY with the changes of the dialect, and readers get the values back.

The reference is COPY, on a plain connection, of an equivalent query. The readers are PostgreSQL, Python, pandas,
DuckDB, polars and LibreOffice, if they are installed. Values are compared as text. The readers get as options the
facts that are not in a CSV: the delimiter, the text for NULL, and that types are not guessed.
"""

import asyncio
import csv
import io
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamer.source.source import CursorChoice
from tests.asking import read_spec
from tests.conftest import connected, made_database
from tests.integration.sources import Plain, assert_conforms, assert_same_bytes, every_cursor, opened, plain_session

TEXTS = [
    "plain", "", " ", "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\n", "=", "'=1", "a=1", "NULL",
    "null", "\\N", "-", "\\.",
    ",", '"', "'", "''", "'\"", "a\nb", "a\r\nb", "é", "=é", "\U0001f600", "\ufeff", "tab\there", "1,5", "; |",
]  # fmt: skip
COLUMNS = {
    "id": "integer",
    "words": "text",
    "short": "varchar(20)",
    "padded": "char(12)",
    "called": "name",
    "one": '"char"',
    "mood": "mood",
    "noted": "note",
    "number": "numeric",
    "at": "timestamptz",
    "moment": "timestamp(3)",
    "kept_until": "expiry",
    "day": "date",
    "list": "text[]",
    "tree": "json",
}
TEXTUAL = {"words", "short", "padded", "called", "one", "mood", "noted"}
MOMENTS = {"at": "Z", "moment": "", "kept_until": "Z"}
MADE = """
    CREATE TYPE mood AS ENUM ('ok', '=sad', '-');
    CREATE DOMAIN note AS text; CREATE DOMAIN expiry AS timestamptz;
"""
ROW = """
    SELECT n::int, text, left(text, 20), left(text, 12), text, CASE WHEN n % 3 = 0 THEN '=' ELSE 'x' END,
        (ARRAY['ok', '=sad', '-', NULL])[1 + n % 4]::mood, text, -n / 7.0,
        (ARRAY['2024-02-29 12:34:56.789+00', 'infinity', '-infinity', '0044-03-15 12:00+00 BC', '12024-01-01 00:00+00',
               '0001-01-01 00:00+00', NULL])[1 + n % 7]::timestamptz,
        (ARRAY['2024-02-29 12:34:56.789', 'infinity', '0044-03-15 12:00 BC', NULL])[1 + n % 4]::timestamp,
        '2000-01-01 00:00+00'::timestamptz + n * interval '1 hour', date '2024-01-01' + n::int,
        ARRAY[text, NULL], to_json(text)
    FROM unnest($1::text[]) WITH ORDINALITY AS given (text, n)
"""
DIALECTS = {
    "default": {},
    "without a header": {"header": "false"},
    "a text for NULL": {"null": "NULL"},
    "NULL as COPY has it": {"null": "\\N", "delimiter": "tab"},
    "NULL like a value": {"null": "-"},
    "a byte order mark": {"bom": "true"},
    "escaped": {"escapeFormulas": "true"},
    "for Excel": {"profile": "excel", "delimiter": ";"},
    "for Excel, without the mark": {"profile": "excel", "bom": "false"},
    "moments of ISO 8601": {"timestamps": "iso8601"},
    "apostrophes": {"quoteChar": "'", "escapeFormulas": "true"},
    "all of it": {
        "profile": "excel", "header": "false", "null": "n/a", "timestamps": "iso8601", "delimiter": "|",
        "quoteChar": "x",
    },
}  # fmt: skip
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


@pytest.fixture(scope="module")
def written(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(_make(url))
        yield url


async def _make(url: str) -> None:
    async with plain_session(url) as plain:
        declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        await plain.execute(f"{MADE} CREATE TABLE written ({declared})")
        texts = [text for text in TEXTS for _ in range(12)]
        await plain.execute("SET standard_conforming_strings TO on")
        await plain.fetch(f"INSERT INTO written {ROW}", texts)
        await plain.execute("INSERT INTO written (id) VALUES (0)")


def asked(dialect: dict[str, str], columns: Sequence[str] = tuple(COLUMNS)) -> list[tuple[str, str]]:
    return [("dataset", "written"), ("columns", ",".join(columns)), *dialect.items()]


async def in_other_words(plain: Plain, dialect: dict[str, str], columns: Sequence[str]) -> bytes:
    """Returns the output of COPY, changed to the dialect by regular expressions."""
    excel = dialect.get("profile") == "excel"
    expressions = []
    for name in columns:
        text = f"CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END"
        if name in TEXTUAL and (excel or dialect.get("escapeFormulas") == "true"):
            expressions.append(f"regexp_replace({text}, '^[=+@\\t\\r\\n-]', '''\\&')")
        elif name in MOMENTS and dialect.get("timestamps") == "iso8601":
            form = r"^(\d{4,}-\d\d-\d\d) ([0-9:.]+)(?:\+00)?$"
            expressions.append(f"regexp_replace({text}, '{form}', '\\1T\\2{MOMENTS[name]}')")
        else:
            expressions.append(name)
    selected = ", ".join(f"{expression} AS {name}" for name, expression in zip(columns, expressions, strict=True))
    received = bytearray(b"\xef\xbb\xbf" if dialect.get("bom", str(excel).lower()) == "true" else b"")

    async def keep(piece: bytearray) -> None:
        received.extend(piece)

    await plain.copy_from_query(
        f"SELECT {selected} FROM written",
        output=keep,
        format="csv",
        header=dialect.get("header") != "false",
        null=dialect.get("null", ""),
        delimiter={"tab": "\t"}.get(dialect.get("delimiter", ","), dialect.get("delimiter", ",")),
        quote=dialect.get("quoteChar", '"'),
    )
    return bytes(received)


@every_cursor
@every_dialect
async def test_every_cursor_writes_a_dialect_as_copy_does(
    written: str, dialect: dict[str, str], choice: CursorChoice
) -> None:
    async with opened(written, choice, "written") as source, plain_session(written) as plain:
        for columns in (tuple(COLUMNS), ("words",), ("padded", "id")):
            spec = read_spec(asked(dialect, columns), b"", source.catalog)
            exported = await source.export(spec)
            assert_same_bytes(exported.body, await in_other_words(plain, dialect, columns))
            assert exported.total == 12 * len(TEXTS) + 1
            if not spec.dialect.header and not spec.dialect.bom:
                assert exported.chunks[0][1] > 0, "nothing stands before the first row"


async def test_default_dialect_is_that_of_every_version(written: str) -> None:
    """Its bytes are those that every version has written."""
    async with opened(written, CursorChoice.AUTO, "written") as source, plain_session(written) as plain:
        exported = await source.export(read_spec(asked({}), b"", source.catalog))
        assert_conforms(exported, await in_other_words(plain, {}, tuple(COLUMNS)))


# Readers


READABLE = {
    "default": {},
    "tab": {"delimiter": "tab", "null": "\\N"},
    "semicolon": {"delimiter": ";", "null": "NULL"},
    "apostrophes": {"quoteChar": "'", "null": "n/a"},
    "no header": {"header": "false", "null": "NULL"},
    "ISO 8601": {"timestamps": "iso8601", "null": "NULL"},
}
MARKED = {
    **READABLE,
    "byte order mark": {"bom": "true", "null": "NULL"},
    "for Excel": {"profile": "excel", "null": "-"},
}
Table = list[tuple[str | None, ...]]


class Exported:
    """An export, and its values."""

    def __init__(self, body: bytes, dialect: dict[str, str], table: Table) -> None:
        self.body = body
        self.table = table
        self.delimiter = {"tab": "\t"}.get(dialect.get("delimiter", ","), dialect.get("delimiter", ","))
        self.quote = dialect.get("quoteChar", '"')
        self.null = dialect.get("null", "")
        self.header = dialect.get("header") != "false"
        self.encoding = "utf-8-sig" if "bom" in dialect or "profile" in dialect else "utf-8"

    @property
    def text(self) -> str:
        return self.body.decode(self.encoding)

    @property
    def without_header(self) -> str:
        """Removes the header line, which has no line breaks here."""
        return self.text.partition("\n")[2] if self.header else self.text

    def confused(self) -> Table:
        """Returns the values for a reader that ignores quotes: NULL and its text are equal."""
        return [tuple(None if value == self.null else value for value in row) for row in self.table]


async def exported(url: str, dialect: dict[str, str]) -> Exported:
    """Reads the values from the database as text, without CSV."""
    async with opened(url, CursorChoice.AUTO, "written") as source, plain_session(url) as plain:
        received = await source.export(read_spec(asked(dialect), b"", source.catalog))
        texts = ", ".join(f"CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END" for name in COLUMNS)
        table = [tuple(row) for row in await plain.fetch(f"SELECT {texts} FROM written")]
    return Exported(received.body, dialect, [tuple(map(_changed(dialect), COLUMNS, row)) for row in table])


def _changed(dialect: dict[str, str]) -> Any:
    def change(name: str, value: str | None) -> str | None:
        if value is None:
            return None
        if name in TEXTUAL and dialect.get("profile") == "excel":
            return "'" + value if value[:1] in tuple("=+-@\t\r\n") else value
        if name in MOMENTS and dialect.get("timestamps") == "iso8601":
            return re.sub(r"^(\d{4,}-\d\d-\d\d) ([0-9:.]+)(?:\+00)?$", rf"\1T\2{MOMENTS[name]}", value)
        return value

    return change


of_each = pytest.mark.parametrize("dialect", READABLE.values(), ids=READABLE)
of_each_and_marked = pytest.mark.parametrize("dialect", MARKED.values(), ids=MARKED)


@of_each
async def test_postgresql_reads_its_own_values_back(written: str, database: str, dialect: dict[str, str]) -> None:
    """It distinguishes NULL from an equal text."""
    found = await exported(written, dialect)
    async with plain_session(database) as plain:
        declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        await plain.execute(f"{MADE} CREATE TABLE back ({declared})")
        await plain.copy_to_table(
            "back",
            source=io.BytesIO(found.body),
            format="csv",
            header=found.header,
            delimiter=found.delimiter,
            quote=found.quote,
            null=found.null,
        )
        texts = ", ".join(f"{name}::text" for name in COLUMNS)
        again = await plain.fetch(f"SELECT {texts} FROM back ORDER BY back.id")
    async with plain_session(written) as plain:
        rows = await plain.fetch(f"SELECT {texts} FROM written ORDER BY written.id")
    assert [tuple(row) for row in again] == [tuple(row) for row in rows]


@of_each_and_marked
async def test_python_reads_the_values(written: str, dialect: dict[str, str]) -> None:
    found = await exported(written, dialect)
    reader = csv.reader(
        io.StringIO(found.text, newline=""), delimiter=found.delimiter, quotechar=found.quote, strict=True
    )
    rows = [tuple(None if value == found.null else value for value in row) for row in reader]
    assert rows[found.header :] == found.confused()
    if found.header:
        assert rows[0] == tuple(COLUMNS)


@of_each_and_marked
async def test_pandas_reads_the_values(written: str, dialect: dict[str, str]) -> None:
    pandas = pytest.importorskip("pandas")
    found = await exported(written, dialect)
    frame = pandas.read_csv(
        io.BytesIO(found.body),
        sep=found.delimiter,
        quotechar=found.quote,
        header=0 if found.header else None,
        dtype=object,
        keep_default_na=False,
        na_values=[found.null],
        encoding=found.encoding,
    )
    rows = [tuple(None if pandas.isna(value) else value for value in row) for row in frame.itertuples(index=False)]
    assert rows == found.confused()
    if found.header:
        assert list(frame.columns) == list(COLUMNS)


@of_each_and_marked
async def test_duckdb_reads_the_values(written: str, dialect: dict[str, str], tmp_path: Path) -> None:
    """It distinguishes a quoted text from NULL, unless the text is empty."""
    duckdb = pytest.importorskip("duckdb")
    found = await exported(written, dialect)
    file = tmp_path / "written.csv"
    file.write_bytes(found.body)
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT * FROM read_csv(?, delim = ?, quote = ?, escape = ?, nullstr = ?, header = ?, all_varchar = true,"
            " allow_quoted_nulls = false, new_line = '\\n', auto_detect = false, columns = ?)",
            [
                str(file), found.delimiter, found.quote, found.quote, found.null, found.header,
                dict.fromkeys(COLUMNS, "VARCHAR"),
            ],
        ).fetchall()  # fmt: skip
    assert rows == found.table


@of_each_and_marked
async def test_polars_reads_the_values(written: str, dialect: dict[str, str]) -> None:
    """It reads an empty field as NULL."""
    polars = pytest.importorskip("polars")
    found = await exported(written, dialect)
    frame = polars.read_csv(
        io.BytesIO(found.body),
        separator=found.delimiter,
        quote_char=found.quote,
        has_header=found.header,
        infer_schema=False,
        null_values=[found.null],
        raise_if_empty=True,
    )
    assert frame.rows() == [tuple(value or None for value in row) for row in found.confused()]


FORMULA = re.compile(rb"table:formula=")


@pytest.mark.timeout(180)
async def test_libreoffice_opens_the_excel_profile_and_runs_no_formula(written: str, tmp_path: Path) -> None:
    soffice = shutil.which("soffice")
    if soffice is None:
        pytest.skip("LibreOffice is not installed")
    async with opened(written, CursorChoice.AUTO, "written") as source:
        for name, dialect in (("guarded", {"profile": "excel"}), ("plain", {"bom": "true"})):
            received = await source.export(read_spec(asked(dialect, ("words", "number", "day")), b"", source.catalog))
            (tmp_path / f"{name}.csv").write_bytes(received.body)
    await asyncio.to_thread(
        subprocess.run,
        [soffice, "--headless", f"-env:UserInstallation=file://{tmp_path}/profile", "--convert-to", "fods",
         "--infilter=CSV:44,34,76,1,,0,false,true,false,false,false,0,true", "guarded.csv", "plain.csv"],
        cwd=tmp_path, check=True, capture_output=True, timeout=150,
    )  # fmt: skip
    guarded, plain = ((tmp_path / f"{name}.fods").read_bytes() for name in ("guarded", "plain"))
    assert FORMULA.search(plain), "this LibreOffice takes nothing for a formula, so that nothing is shown"
    assert not FORMULA.search(guarded)
    header = re.search(rb"<table:table-row.*?</table:table-row>", guarded, re.DOTALL)
    assert header is not None
    assert re.findall(rb"<text:p>(.*?)</text:p>", header[0]) == [b"words", b"number", b"day"]


async def test_export_without_rows_and_header_line_is_empty(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE written (id int)")
    async with opened(database, CursorChoice.AUTO, "written") as source:
        empty = await source.export(read_spec(asked({"header": "false"}, ["id"]), b"", source.catalog))
        marked = await source.export(read_spec(asked({"header": "false", "bom": "true"}, ["id"]), b"", source.catalog))
    assert (empty.body, empty.total, marked.body) == (b"", 0, b"\xef\xbb\xbf")
