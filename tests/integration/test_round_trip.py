"""Every value of every type, as an export prints it, is a filter that finds its own rows.

A table has one row for each odd value of a type. The text of each value, as COPY prints it, is a filter with every
operator, and the rows are those of the same comparison on a plain connection.
"""

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import urlencode

import aiohttp
import pytest

from streamer.config import Names
from streamer.source.catalog.checking import ValueCheck
from streamer.source.source import CursorChoice
from tests.asking import read_spec
from tests.conftest import Serve, made_database
from tests.exporting import create, read_problem
from tests.integration.sources import Plain, opened, plain_session

ODD = {
    "int2": ("smallint", ["-32768", "0", "32767"]),
    "int8": ("bigint", ["-9223372036854775808", "9223372036854775807"]),
    "num": ("numeric", ["NaN", "Infinity", "-Infinity", "0", "-0.000", "1e-400", "1e400", "9" * 600, "1." + "1" * 500]),
    "scaled": ("numeric(10,2)", ["NaN", "-0.01", "99999999.99"]),
    "f4": ("real", ["NaN", "Infinity", "-Infinity", "3.4028235e38", "-3.4028235e38", "1e-45", "0.1", "-0"]),
    "f8": ("double precision", ["NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "0.1", "1e22"]),
    "flag": ("boolean", ["true", "false"]),
    "day": ("date", ["infinity", "-infinity", "4714-11-24 BC", "0001-12-31 BC", "0001-01-01", "9999-12-31",
                     "10000-01-01", "5874897-12-31", "2024-02-29"]),
    "at": ("timestamptz", ["infinity", "-infinity", "4714-11-24 00:00+00 BC", "0044-03-15 12:00:00.5+00 BC",
                           "0001-01-01 00:00+00", "9999-12-31 23:59:59.999999+00", "10000-01-01 00:00+00",
                           "294276-12-31 23:59:59.999999+00", "2024-02-29 12:00+00"]),
    "moment": ("timestamp", ["infinity", "-infinity", "4714-11-24 00:00 BC", "0001-12-31 23:59:59.999999 BC",
                             "9999-12-31 23:59:59.999999", "294276-12-31 23:59:59.999999", "2024-02-29 12:00:00.1"]),
    "clock": ("time", ["00:00", "24:00", "23:59:59.999999"]),
    "zoned": ("timetz", ["24:00:00-15:59", "12:00+05:30"]),
    "span": ("interval", ["-1 year -2 mons +3 days -04:05:06.7", "178000000 years", "00:00", "-00:00:00.000001"]),
    "key": ("uuid", ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    "words": ("text", [" ", "NULL", "null", "NaN", "\\N", "\\.", "a,b", 'a"b', "'", "%", "é", "\U0001f600", "\ufffd",
                       "+"]),
    "code": ("char(3)", ["a", "a b", "é"]),
    "raw": ("bytea", ["\\x", "\\x00ff"]),
    "cash": ("money", ["-$92,233,720,368,547,758.08", "$0.10"]),
    "bits": ("bit varying", ["", "101"]),
    "net": ("inet", ["::1", "10.0.0.1/8", "10.0.0.0/8"]),
    "tags": ("text[]", ["{}", '{NULL,"NULL","",a}', '{{"a,b"},{"\\""}}']),
    "tree": ("jsonb", ["null", '{"a": [1.50, null]}', '""']),
    "days": ("daterange", ["empty", "(,)", "[2024-01-01,2024-01-03)", "[-infinity,infinity]"]),
}  # fmt: skip
OPERATORS = {"": "=", "__in": "=", "__gte": ">=", "__lte": "<=", "__gt": ">", "__lt": "<", "__ne": "<>"}


@pytest.fixture(scope="module")
def odd(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(_make(url))
        yield url


async def _make(url: str) -> None:
    async with plain_session(url) as plain:
        for name, (kind, values) in ODD.items():
            await plain.execute(f"CREATE TABLE t_{name} (row int, {name} {kind})")
            for row, value in enumerate(values):
                literal = await plain.fetchval("SELECT quote_literal($1)", value)
                await plain.execute(f"INSERT INTO t_{name} VALUES ({row}, {literal})")


async def printed(plain: Plain, name: str) -> dict[int, str]:
    """The text of each value as COPY prints it."""
    return dict(await plain.fetch(f"SELECT row, format('%s', {name}) FROM t_{name}"))


async def compared(plain: Plain, name: str, symbol: str, row: int) -> list[str]:
    """The rows for which the comparison with the value of `row` holds, without any text of it."""
    sql = f"SELECT row FROM t_{name} WHERE {name} {symbol} (SELECT {name} FROM t_{name} WHERE row = {row}) ORDER BY row"
    return [str(found["row"]) for found in await plain.fetch(sql)]


@pytest.mark.parametrize("name", ODD)
async def test_a_printed_value_finds_its_rows_by_every_operator(odd: str, name: str) -> None:
    async with opened(odd, CursorChoice.COPY, f"t_{name}") as source, plain_session(odd) as plain:
        check = ValueCheck(source.pool, None)
        for row, text in (await printed(plain, name)).items():
            for suffix, symbol in OPERATORS.items():
                body = {"dataset": f"t_{name}", "columns": ["row"], name + suffix: [text] if suffix == "__in" else text}
                if symbol == "<=" and name in ("at", "moment"):
                    body[name + suffix] = text.replace(" ", "T", 1)  # the same, as ISO 8601 has it
                if suffix == "__in" and text == "":
                    continue  # an empty item of a list is refused
                spec = read_spec([], json.dumps(body).encode(), source.catalog)
                await check.check(source.catalog[spec.dataset], spec.conditions, spec.dialect.null)
                exported = await source.export(spec)
                wanted = await compared(plain, name, symbol, row)
                assert sorted(exported.body.decode().split()[1:], key=int) == wanted, (name, suffix, text)


@pytest.mark.parametrize("name", ["num", "f4", "flag", "day", "at", "moment", "words"])
@pytest.mark.parametrize("choice", [CursorChoice.BLOCKS, CursorChoice.FETCH])
async def test_a_printed_value_finds_its_row_with_every_cursor(odd: str, name: str, choice: CursorChoice) -> None:
    async with opened(odd, choice, f"t_{name}") as source, plain_session(odd) as plain:
        for row, text in (await printed(plain, name)).items():
            body = {"dataset": f"t_{name}", "columns": ["row"], name: text}
            exported = await source.export(read_spec([], json.dumps(body).encode(), source.catalog))
            assert exported.body.decode().split()[1:] == await compared(plain, name, "=", row), text


DAYS = [
    ("2024-02-29", ["2024-02-29 23:59:59.999999", "2024-03-01 00:00"], 1),
    ("9999-12-31", ["9999-12-31 23:59:59.999999", "10000-01-01 00:00"], 1),
    ("12023-12-31", ["12023-12-31 12:00", "12024-01-01 00:00"], 1),
    ("0044-03-15 BC", ["0045-03-16 00:00 BC", "0044-03-15 23:59:59.999999 BC", "0044-03-16 00:00 BC"], 2),
    ("0001-12-31 BC", ["0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00"], 1),
    ("infinity", ["-infinity", "2024-02-29 00:00", "infinity"], 3),
    ("-infinity", ["-infinity", "4714-11-24 00:00 BC"], 1),
]


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
@pytest.mark.parametrize(("day", "moments", "rows"), DAYS, ids=[day for day, _, _ in DAYS])
async def test_an_upper_bound_that_is_a_day_includes_that_day_in_every_age(
    database: str, kind: str, day: str, moments: list[str], rows: int
) -> None:
    async with plain_session(database) as plain:
        await plain.execute(f"CREATE TABLE ages (at {kind})")
        for moment in moments:
            await plain.execute(f"INSERT INTO ages VALUES ('{moment}')")
    async with opened(database, CursorChoice.COPY, "ages") as source:
        for name in ("at_to", "at_max", "at__lte"):
            exported = await source.export(read_spec([("dataset", "ages"), (name, day)], b"", source.catalog))
            assert exported.total == rows


FORMS = [
    "2024-12-31T23:59:59.1234560Z",
    "2024-12-31T23:59:59.123456000Z",
    "2024-12-31t23:59:59.123456z",
    "2025-01-01T01:59:59.1234560+02:00",
    "2024-12-31 23:59:59.123456+00",
]


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
async def test_the_timestamp_formats_of_other_languages_are_equal(
    database: str, serve: Serve, session: aiohttp.ClientSession, kind: str
) -> None:
    async with plain_session(database) as plain:
        await plain.execute(f"CREATE TABLE one AS SELECT '2024-12-31 23:59:59.123456'::{kind} AS at")
    server = await serve(source_database_url=database, datasets=Names(("one",)))
    for form in FORMS:
        export = await create(session, server.url, dataset="one", at=form)
        assert (await export.until("completed"))["progress"]["processedRows"] == 1, form


WRONG = [
    ("t_at", "at", "294277-01-01", 'timestamp out of range: "294277-01-01T00:00:00+00:00"'),
    ("t_day", "day", "5874898-01-01", 'date out of range: "5874898-01-01"'),
    ("t_f8", "f8", "1e400", '"1e400" is out of range for type double precision'),
    ("t_f4", "f4", "1e39", '"1e39" is out of range for type real'),
    ("t_num", "num", "1e4000", "must be a decimal number, not '1e4000'"),
    ("t_flag", "flag", "maybe", "must be true or false, not 'maybe'"),
    ("t_at", "at", "yesterday", "must be a date or a time such as 2024-12-31"),
    ("t_at", "at", "31.12.2024", "must be a date or a time such as 2024-12-31"),
    ("t_day", "day", "01/02/2024", "must be a date such as 2024-12-31"),
]


async def test_a_value_that_no_type_accepts_is_refused_at_once(
    odd: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve(source_database_url=odd, datasets=Names(tuple(f"t_{name}" for name in ODD)))
    for dataset, name, text, sentence in WRONG:
        query = urlencode({"dataset": dataset, name: text})
        async with session.post(f"{server.url}/exports/csv?{query}") as response:
            problem = await read_problem(response, 400)
        assert problem["parameter"] == name
        assert problem["detail"].startswith(f"{name}: {sentence}")
    async with session.get(f"{server.url}/exports") as response:
        assert (await response.json())["exports"] == []
