"""The conformance suite of the cursors: for one spec, every cursor writes the bytes of COPY, with its header.

The reference is COPY on a plain connection (`sources.copied`), and psql if it is installed. Each export is also checked
chunk by chunk: a chunk is whole records, as many as the cursor has reported.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.errors import ExportFailure
from streamer.model import Condition, Operator
from streamer.source.catalog.introspection import read_catalog
from streamer.source.source import CursorChoice
from tests import seeds
from tests.conftest import ROWS, connected, made_database
from tests.integration.sources import (
    ACTING,
    CURSORS,
    PLAIN_SESSION,
    Opened,
    Plain,
    acting,
    assert_conforms,
    assert_same_bytes,
    copied,
    cursors_of_views,
    entered_as,
    every_cursor,
    identifiers,
    made_role,
    numbers,
    opened,
    plain_session,
    pooled,
    run_sql,
    spec,
)


@dataclass(frozen=True)
class Type:
    """A column's declaration, and values of it as SQL; `needs` is the oldest server, or an expression to try there."""

    declared: str
    values: Sequence[str]
    needs: int | str = 14


def texts(*values: str) -> tuple[str, ...]:
    """As SQL, with nothing left to a setting of the server."""
    return tuple("E'" + value.replace("\\", "\\\\").replace("'", "''") + "'" for value in values)


TEXTS = texts(
    "plain", "", " ", " leading", "trailing ", ",", '"', '""', 'say "hi", twice', "it's", "\n", "\r", "\r\n", "a\nb",
    "\t", "\\", "\\\\", "\\.", "\\.\n", "\\N", "\\n", "NULL", "null", "$1", "%s", "=1+1", ";", "|", "\x01", "\x7f",
    "\ufeff", "\u2028", "e\u0301", "\u00a0", "\u0085", "ñ", "北京", "\U0001f469\u200d\U0001f4bb", "\ufffe",
    "\U0010ffff",
)  # fmt: skip
SHORT_TEXTS = texts("", " ", ",", '"', "\\", "\\.", "\n", "\r", "a", "x ", "é", "'", "$1")

TYPES: dict[str, Type] = {
    "smallint": Type("smallint", ["0", "'-32768'", "32767"]),
    "integer": Type("integer", ["0", "'-2147483648'", "2147483647"]),
    "bigint": Type("bigint", ["0", "'-9223372036854775808'", "9223372036854775807"]),
    "numeric": Type(
        "numeric",
        [
            "'NaN'", "'Infinity'", "'-Infinity'", "0", "'-0.00'", "123.4500", "'1e-10'", "'1e1000'", "'-1e131071'",
            "repeat('9', 5000)::numeric", "('0.' || repeat('1234567890', 200))::numeric", "'1e-16383'",
        ],
    ),
    "numeric_of_scale": Type("numeric(10, 2)", ["'NaN'", "0", "0.1", "'-99999999.99'", "1e3"]),
    "numeric_of_negative_scale": Type("numeric(3, -2)", ["12345", "'-54'"], needs=15),
    "numeric_of_small_fractions": Type("numeric(2, 4)", ["0.0012", "'NaN'"], needs=15),
    "real": Type(
        "real",
        [
            "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0.1", "'1e-45'", "'3.4028235e38'", "'1.1754944e-38'",
            "16777216",
        ],
    ),
    "double": Type(
        "double precision",
        [
            "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0.1", "'0.30000000000000004'", "'5e-324'", "'1e-323'",
            "'2.2250738585072014e-308'", "'2.225073858507201e-308'", "'1.7976931348623157e308'", "1e15", "1e16",
            "123456789012345678",
        ],
    ),
    "money": Type("money", ["0", "'-1234567.89'", "'92233720368547758.07'", "'-92233720368547758.08'"]),
    "boolean": Type("boolean", ["true", "false"]),
    "text": Type("text", TEXTS),
    "varchar": Type("varchar(20)", TEXTS),
    "unlimited_varchar": Type("varchar", TEXTS),
    "char_of_one": Type("char(1)", texts("", "a", ",", '"', "\\", "\n", "é")),
    "char_of_two": Type("char(2)", texts("", "a", ",", '"', '""', "\\.", "\r\n", "é")),
    "char_of_ten": Type("char(10)", SHORT_TEXTS),
    "unlimited_bpchar": Type("bpchar", SHORT_TEXTS),
    "name": Type("name", TEXTS),
    "one_byte_char": Type('"char"', texts("", "a", ",", '"', "\\", "\n", " ")),
    "one_high_byte_char": Type('"char"', texts("\\303", "\\200"), needs=16),
    "bytea": Type(
        "bytea",
        ["''", r"'\x00'", r"'\x5c2e'", r"'\x2c220a0d'", "decode(repeat('00ff', 500), 'hex')", "'text'::bytea"],
    ),
    "date": Type(
        "date",
        [
            "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'0044-03-15 BC'", "'0001-01-01'", "'5874897-12-31'",
            "'2024-02-29'",
        ],
    ),
    "time": Type("time", ["'00:00'", "'24:00'", "'23:59:59.999999'", "'12:00:00.5'"]),
    "time_of_seconds": Type("time(0)", ["'12:00:00.6'"]),
    "timetz": Type("timetz", ["'12:00:00.123456+05:30'", "'24:00:00-15:59:59'", "'00:00:00+15:59'", "'01:02:03 UTC'"]),
    "timestamp": Type(
        "timestamp",
        [
            "'infinity'", "'-infinity'", "'4713-01-01 00:00:00 BC'", "'0044-03-15 12:00 BC'",
            "'294276-12-31 23:59:59.999999'", "'2024-02-29 12:34:56.789'", "'1969-12-31 23:59:59.000001'",
            "'2000-01-01'",
        ],
    ),
    "timestamptz": Type(
        "timestamptz",
        [
            "'infinity'", "'-infinity'", "'4713-01-02 00:00:00+00 BC'", "'0044-03-15 12:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'", "'2024-03-31 01:30:00+00'", "'1969-12-31 23:59:59.000001-08'",
        ],
    ),
    "timestamptz_of_milliseconds": Type("timestamptz(3)", ["'2024-02-29 12:34:56.7896+00'"]),
    "interval": Type(
        "interval",
        [
            "'0'", "'1 year 2 mons -3 days 04:05:06.789'", "'-178000000 years'", "'178000000 years'", "'-0.000001 s'",
            "'1 mon -1 day -00:00:00.000001'", "'1000000 hours'", "'-1 days +23:00'",
        ],
    ),
    "interval_of_days": Type("interval day to second(2)", ["'1 2:03:04.5678'"]),
    "infinite_interval": Type("interval", ["'infinity'", "'-infinity'"], needs=17),
    "uuid": Type("uuid", ["'00000000-0000-0000-0000-000000000000'", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"]),
    "json": Type("json", [*texts('{"a": "b,c"}', "[]", '"\\u00e9"', " null ", '{\n "a" :\t1, "a": 2}', '"\\\\."')]),
    "jsonb": Type("jsonb", [*texts('{"b": 1e2, "a": "b,\\"c"}', "[]", '"é"', "null", "-0.0", '{"": {}}')]),
    "jsonpath": Type("jsonpath", ["'$.a[*] ? (@ > 1)'", "'lax $.\"b,c\"'"]),
    "xml": Type("xml", [*texts("<a b=\"c\">,\n</a>", "\\.", "")], needs="'<a/>'::xml"),
    "inet": Type("inet", ["'10.1.2.3'", "'10.1.2.3/8'", "'::1'", "'2001:db8::/32'", "'::ffff:1.2.3.4/128'"]),
    "cidr": Type("cidr", ["'10.0.0.0/8'", "'10.1.2.3'", "'2001:db8::/32'", "'0.0.0.0/0'"]),
    "macaddr": Type("macaddr", ["'08:00:2b:01:02:03'"]),
    "macaddr8": Type("macaddr8", ["'08:00:2b:01:02:03:04:05'"]),
    "bit": Type("bit(8)", ["B'00000000'", "B'10101010'"]),
    "varbit": Type("bit varying", ["B''", "B'1'", "repeat('10', 300)::varbit"]),
    "point": Type("point", ["'(0,-0)'", "'(1e300,NaN)'", "'(Infinity,-Infinity)'", "'(0.1,5e-324)'"]),
    "line": Type("line", ["'{1,-1,0}'", "'[(0,0),(1,3)]'"]),
    "lseg": Type("lseg", ["'[(0,0),(1,1)]'"]),
    "box": Type("box", ["'(1,1),(0,0)'", "'(0.1,2),(3,4)'"]),
    "path": Type("path", ["'[(0,0),(1,1)]'", "'((0,0),(1,1),(2,0))'"]),
    "polygon": Type("polygon", ["'((0,0),(1,1),(2,0))'"]),
    "circle": Type("circle", ["'<(0,0),1>'"]),
    "tsvector": Type("tsvector", ["''", "$$'a':1A,2 'b,c' 'd''e' 'f\"g':3$$", r"$$'\\.'$$"]),
    "tsquery": Type("tsquery", ["''", "$$'a' & ( 'b,c' | !'d''e' ) <2> 'f':*A$$"]),
    "integers": Type("integer[]", ["'{}'", "'{NULL,1}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "'{{{1},{NULL}}}'"]),
    "texts": Type(
        "text[]",
        [
            "'{}'", "ARRAY[NULL, 'NULL', 'null', '']", "ARRAY['a,b', '\"', E'\\\\', E'\\n', E'\\r', '{}', ' ', 'é']",
            "ARRAY[['a', 'b,'], [NULL, '\"\"']]", r"ARRAY[E'\\.']",
        ],
    ),
    "numerics": Type("numeric(6, 2)[]", ["'{NaN,1.5,NULL}'"]),
    "doubles": Type("float8[]", ["'{NaN,-0,1e-323,Infinity}'"]),
    "moments": Type("timestamptz[]", ["'{infinity,2024-02-29 12:00:00.5+00,0044-03-15 BC}'"]),
    "byteas": Type("bytea[]", [r"ARRAY['\x00ff'::bytea, NULL, '']"]),
    "booleans": Type("boolean[]", ["'{t,f,NULL}'"]),
    "chars": Type("char(3)[]", ["ARRAY['a', '', NULL, 'b,c']"]),
    "jsons": Type("jsonb[]", ["ARRAY['{\"a\": [1, 2]}'::jsonb, NULL, 'null']"]),
    "int4range": Type("int4range", ["'empty'", "'[1,5)'", "'(,)'", "'[5,5]'"]),
    "int8range": Type("int8range", ["'[1,)'"]),
    "numrange": Type("numrange", ["'(0.10,Infinity]'", "'(,NaN)'"]),
    "daterange": Type("daterange", ["'[2024-02-29,infinity)'", "'[0044-03-15 BC,]'"]),
    "tsrange": Type("tsrange", ["'[2024-02-29 12:00,2024-03-01)'", "'[-infinity,infinity]'"]),
    "tstzrange": Type("tstzrange", ["'[2024-02-29 12:00+00,2024-03-01+00)'"]),
    "text_range": Type("text_range", [r"""text_range('a,"b', E'c\\', '[]')""", "text_range('', NULL)", "'empty'"]),
    "int4multirange": Type("int4multirange", ["'{}'", "'{[1,5),[7,9)}'", "'{(,)}'"]),
    "tstzmultirange": Type("tstzmultirange", ["'{[2024-02-29 12:00+00,2024-03-01+00)}'"]),
    "ranges": Type("int4range[]", ["ARRAY['[1,5)'::int4range, 'empty', NULL]"]),
    "enum": Type("mood", [*texts("ok", "so, so", '"quoted"', "\\.", "line\nfeed", " ")]),
    "enums": Type("mood[]", ["ARRAY['ok', E'\\\\.', 'so, so', NULL]::mood[]"]),
    "domain_of_text": Type("note", TEXTS),
    "domain_of_integer": Type("positive", ["1", "2147483647"]),
    "domain_of_char": Type("code", ["''", "'a'", "','"]),
    "domain_of_domain": Type("short_note", [*texts("a", "\\.", "")]),
    "domain_of_composite": Type("known_pair", ["ROW(1, 'a')", "ROW(1, NULL)"]),
    "domain_of_array": Type("positives", ["'{1,2}'", "'{}'"]),
    "domains": Type("positive[]", ["'{1,NULL,2}'"]),
    "composite": Type(
        "pair",
        ["ROW(NULL, NULL)", "ROW(1, 'a,\"b')", "ROW(NULL, '')", "ROW(0, E'\\n')", r"ROW(1, E'\\.')", "ROW(2, 'x')"],
    ),
    "composite_of_composite": Type(
        "nest", ["ROW(ROW(NULL, NULL), NULL)", "ROW(ROW(1, 'a'), ARRAY[ROW(2, 'b')::pair, NULL])"]
    ),
    "composite_of_one": Type("single", ["ROW(NULL)", r"ROW(E'\\.')", "ROW('')", "ROW('a')"]),
    "composite_of_none": Type("nothing", ["ROW()"]),
    "composites": Type("pair[]", ["ARRAY[ROW(1, 'a,b'), ROW(NULL, NULL), NULL]::pair[]", "'{}'"]),
    "row_of_table": Type("ledger", ["ROW(1, 'x')", "ROW(NULL, NULL)"]),
    "oid": Type("oid", ["0", "4294967295"]),
    "regclass": Type("regclass", ["'pg_class'", "'ledger'", "0", "4294967295", "'\"odd, \"\"name\"'"]),
    "regproc": Type("regproc", ["'now'", "0", "'array_in'"]),
    "regprocedure": Type("regprocedure", ["'format(text)'", "'set_config(text,text,boolean)'"]),
    "regoper": Type("regoper", ["0", "'||/'"]),
    "regoperator": Type("regoperator", ["'+(integer,integer)'"]),
    "regtype": Type("regtype", ["'integer'", "'pair'", "'double precision[]'"]),
    "regrole": Type("regrole", ["10", "0"]),
    "regnamespace": Type("regnamespace", ["'pg_catalog'", "'public'"]),
    "regconfig": Type("regconfig", ["'simple'"]),
    "regdictionary": Type("regdictionary", ["'simple'"]),
    "regcollation": Type("regcollation", ["'\"C\"'"]),
    "pg_lsn": Type("pg_lsn", ["'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
    "xid": Type("xid", ["'5'"]),
    "xid8": Type("xid8", ["'18446744073709551615'"]),
    "cid": Type("cid", ["'5'"]),
    "tid": Type("tid", ["'(0,1)'"]),
    "pg_snapshot": Type("pg_snapshot", ["'10:20:10,14,15'"]),
    "txid_snapshot": Type("txid_snapshot", ["'10:20:10,14,15'"]),
    "int2vector": Type("int2vector", ["'1 2 3'", "''"]),
    "oidvector": Type("oidvector", ["'1 2 3'", "''"]),
    "refcursor": Type("refcursor", [*texts("a, b", "\\.")]),
    "aclitem": Type("aclitem[]", ["ARRAY[makeaclitem(0, 10, 'SELECT', false)]", "'{}'"]),
    "hstore": Type("hstore", [*texts('"a"=>"b,c", "d"=>NULL', "")], needs="'a=>1'::hstore"),
}  # fmt: skip

USER_TYPES = r"""
    CREATE TYPE mood AS ENUM ('ok', 'so, so', '"quoted"', E'\\.', E'line\nfeed', ' ');
    CREATE DOMAIN note AS text;
    CREATE DOMAIN short_note AS note CHECK (length(VALUE) < 10);
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE DOMAIN code AS char(3);
    CREATE DOMAIN positives AS integer[] CHECK (0 < ALL (VALUE));
    CREATE TYPE pair AS (number integer, words text);
    CREATE TYPE nest AS (one pair, many pair[]);
    CREATE TYPE single AS (words text);
    CREATE TYPE nothing AS ();
    CREATE DOMAIN known_pair AS pair CHECK ((VALUE).number > 0);
    CREATE TYPE text_range AS RANGE (subtype = text, collation = "C");
    CREATE TABLE ledger (number integer, words text);
    CREATE TABLE "odd, ""name" ();
"""


@dataclass(frozen=True)
class TypesDatabase:
    """`every` has a column for each type of the server, with its values and NULLs."""

    url: str
    columns: Sequence[str]


@pytest.fixture(scope="module")
def types(postgres: str) -> Iterator[TypesDatabase]:
    with made_database(postgres) as url:
        yield TypesDatabase(url, asyncio.run(_make_types(url)))


async def _make_types(url: str) -> list[str]:
    async with connected(url) as connection:
        await connection.execute("SET search_path TO public")
        if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hstore')"):
            await connection.execute("CREATE EXTENSION hstore")
        await connection.execute(USER_TYPES)
        known = {name: kind for name, kind in TYPES.items() if await _has(connection, kind.needs)}
        columns = (f'"{name}" {kind.declared}' for name, kind in known.items())
        await connection.execute(f"CREATE TABLE every ({', '.join(columns)})")
        for place in range(max(len(kind.values) for kind in known.values()) + 1):
            row = (kind.values[place] if place < len(kind.values) else "NULL" for kind in known.values())
            await connection.execute(f"INSERT INTO every VALUES ({', '.join(row)})")
    return list(known)


async def _has(connection: Plain, needs: int | str) -> bool:
    if isinstance(needs, int):
        return bool(connection.get_server_version().major >= needs)
    try:
        await connection.execute(f"SELECT {needs}")
    except asyncpg.PostgresError:
        return False
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened_by_cursor(types: TypesDatabase) -> AsyncIterator[Mapping[CursorChoice, Opened]]:
    """One source for all tests of a single type: there are hundreds."""
    async with AsyncExitStack() as stack:
        yield {choice: await stack.enter_async_context(opened(types.url, choice, "every")) for choice in CURSORS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain_types(types: TypesDatabase) -> AsyncIterator[Plain]:
    async with plain_session(types.url) as plain:
        yield plain


@pytest.mark.asyncio(loop_scope="module")
@every_cursor
@pytest.mark.parametrize("name", TYPES)
async def test_a_type_alone_is_written_as_copy_writes_it(
    types: TypesDatabase,
    opened_by_cursor: Mapping[CursorChoice, Opened],
    plain_types: Plain,
    name: str,
    choice: CursorChoice,
) -> None:
    if name not in types.columns:
        pytest.skip(f"this server has no such type: {TYPES[name].needs}")
    expected = await copied(plain_types, f'SELECT "{name}" FROM every')
    assert_conforms(await opened_by_cursor[choice].export(spec("every", [name])), expected)


@every_cursor
@pytest.mark.parametrize(("delimiter", "quote_char"), [(",", '"'), (":", "'"), ("1", "("), ("{", "\\"), ("t", "-")])
async def test_all_types_together_are_written_as_copy_writes_them(
    types: TypesDatabase, choice: CursorChoice, delimiter: str, quote_char: str
) -> None:
    asked = spec("every", types.columns[::-1], delimiter=delimiter, quote_char=quote_char)
    async with opened(types.url, choice, "every") as source, plain_session(types.url) as plain:
        sql = f"SELECT {', '.join(await identifiers(plain, asked.columns))} FROM every"
        expected = await copied(plain, sql, delimiter=delimiter, quote_char=quote_char)
        assert_conforms(await source.export(asked), expected, asked.dialect)


@every_cursor
@pytest.mark.parametrize("catalog", ["pg_type", "pg_proc", "pg_rewrite", "pg_index", "pg_attribute", "pg_conversion"])
async def test_system_catalogs_with_types_of_their_own_are_written_as_copy_writes_them(
    types: TypesDatabase, choice: CursorChoice, catalog: str
) -> None:
    """Query trees, vectors and arrays of any type, which a table of ours cannot hold."""
    async with opened(types.url, choice, catalog) as source, plain_session(types.url) as plain:
        columns = list(source.catalog[catalog].columns)
        expected = await copied(plain, f"SELECT {', '.join(await identifiers(plain, columns))} FROM {catalog}")
        assert_conforms(await source.export(spec(catalog, columns)), expected)


NASTY = 4007  # rows that hold each nasty row of the seeds
DIALECTS = [
    (",", '"'), (";", "'"), ("\t", '"'), ("|", "\\"), ("\\", "."), (".", "\\"), (" ", "0"), ("a", "b"), ("0", "N"),
    ("\x01", "\x02"), ("\x7f", "'"), ("'", "$"), ("$", "%"), ("^", "]"), ("-", "^"),
]  # fmt: skip


@every_cursor
@pytest.mark.parametrize(("delimiter", "quote_char"), DIALECTS)
async def test_nasty_rows_are_written_as_the_oracle_and_copy_write_them(
    source_url: str, choice: CursorChoice, delimiter: str, quote_char: str
) -> None:
    few = Condition(column="id", operator=Operator.LTE, values=(str(NASTY),))
    asked = spec("users", seeds.COLUMNS, few, delimiter=delimiter, quote_char=quote_char)
    oracle = b"".join(seeds.csv_bytes(seeds.rows(NASTY), delimiter=delimiter, quote=quote_char))
    async with opened(source_url, choice, "users") as source, plain_session(source_url) as plain:
        sql = f"SELECT * FROM users WHERE id <= {NASTY}"
        assert_same_bytes(await copied(plain, sql, delimiter=delimiter, quote_char=quote_char), oracle)
        assert_conforms(await source.export(asked), oracle, asked.dialect)


@every_cursor
@pytest.mark.parametrize("columns", [*[[name] for name in seeds.COLUMNS], seeds.COLUMNS[::-1], ["name", "id"]])
async def test_columns_have_the_order_of_the_request(source_url: str, choice: CursorChoice, columns: list[str]) -> None:
    few = Condition(column="id", operator=Operator.LTE, values=(str(NASTY),))
    async with opened(source_url, choice, "users") as source:
        exported = await source.export(spec("users", columns, few))
    assert_conforms(exported, b"".join(seeds.csv_bytes(seeds.rows(NASTY), columns)))


@every_cursor
async def test_every_row_of_the_seeds_is_written(source_url: str, choice: CursorChoice) -> None:
    async with opened(source_url, choice, "users") as source:
        exported = await source.export(spec("users", seeds.COLUMNS))
    assert_conforms(exported, b"".join(seeds.csv_bytes(seeds.rows(ROWS))))


FILTERS: dict[str, tuple[str, list[tuple[str, Operator, *tuple[str, ...]]]]] = {
    "one_country": ("country_code = 'US'", [("country_code", Operator.EQ, "US")]),
    "two_countries": ("country_code IN ('DE', 'X ')", [("country_code", Operator.EQ, "DE", "X")]),
    "at_least": ("lifetime_value >= 9999.5", [("lifetime_value", Operator.GTE, "9999.5")]),
    "above": ("lifetime_value > 9999.5", [("lifetime_value", Operator.GT, "9999.5")]),
    "at_most": ("lifetime_value <= 1", [("lifetime_value", Operator.LTE, "1")]),
    "below": ("lifetime_value < 1", [("lifetime_value", Operator.LT, "1")]),
    "a_month": (
        "signup_date >= '2024-02-01Z' AND signup_date < '2024-03-01Z'",
        [("signup_date", Operator.GTE, "2024-02-01"), ("signup_date", Operator.LT, "2024-03-01")],
    ),
    "infinite_moments": ("signup_date = 'infinity'", [("signup_date", Operator.EQ, "infinity")]),
    "all_of_it": (
        "country_code = 'FR' AND subscription_tier IN ('basic', '\"premium\"') AND lifetime_value >= 100",
        [
            ("country_code", Operator.EQ, "FR"),
            ("subscription_tier", Operator.EQ, "basic", '"premium"'),
            ("lifetime_value", Operator.GTE, "100"),
        ],
    ),
    "nothing": ("id < 0", [("id", Operator.LT, "0")]),
}


@every_cursor
@pytest.mark.parametrize("name", FILTERS)
async def test_filtered_rows_are_those_of_the_same_statement(source_url: str, name: str, choice: CursorChoice) -> None:
    where, asked = FILTERS[name]
    conditions = [Condition(column=column, operator=test, values=tuple(values)) for column, test, *values in asked]
    async with opened(source_url, choice, "users") as source, plain_session(source_url) as plain:
        expected = await copied(plain, f"SELECT * FROM users WHERE {where}")
        assert (expected.count(b"\n") == 1) == (name == "nothing")
        assert_conforms(await source.export(spec("users", seeds.COLUMNS, *conditions)), expected)


@dataclass(frozen=True)
class Shape:
    """A relation named `shape`, in a schema of its own."""

    made_by: str
    columns: Sequence[str]


HUNDRED = [f"c{number}" for number in range(100)]
TABLES = {
    "empty": Shape("CREATE TABLE {0}.shape (a int, b text)", ["a", "b"]),
    "empty_column": Shape("CREATE TABLE {0}.shape (a text)", ["a"]),
    "one_row": Shape("CREATE TABLE {0}.shape AS SELECT 1 AS a, 'x' AS b", ["a", "b"]),
    "one_null": Shape("CREATE TABLE {0}.shape AS SELECT NULL::text AS a", ["a"]),
    "one_empty_text": Shape("CREATE TABLE {0}.shape AS SELECT ''::text AS a", ["a"]),
    "one_end_of_data": Shape(r"CREATE TABLE {0}.shape AS SELECT E'\\.'::text AS a", ["a"]),
    "nothing_but_nulls": Shape(
        "CREATE TABLE {0}.shape AS SELECT NULL::text AS a, NULL::int AS b FROM generate_series(1, 3000)", ["a", "b"]
    ),
    "nothing_but_line_breaks": Shape(
        "CREATE TABLE {0}.shape AS SELECT repeat(E'\\n', n % 7) AS a FROM generate_series(1, 3000) n", ["a"]
    ),
    "nothing_but_quotes": Shape(
        "CREATE TABLE {0}.shape AS SELECT repeat('\"', n % 7) AS a FROM generate_series(1, 3000) n", ["a"]
    ),
    "no_columns": Shape("CREATE TABLE {0}.shape (); INSERT INTO {0}.shape SELECT FROM generate_series(1, 1200)", []),
    "a_hundred_columns": Shape(
        "CREATE TABLE {0}.shape AS SELECT "
        + ", ".join(f"CASE WHEN n % {at + 2} > 0 THEN n * {at} || ',' END AS {name}" for at, name in enumerate(HUNDRED))
        + " FROM generate_series(1, 1200) n",
        HUNDRED,
    ),
    "megabytes_of_text": Shape(
        "CREATE TABLE {0}.shape AS SELECT n AS a, repeat(E'\\n\\\\\",é', 200000 * n) AS b FROM generate_series(0, 2) n",
        ["b", "a"],
    ),
    "megabytes_of_bytes": Shape(
        "CREATE TABLE {0}.shape AS SELECT decode(repeat('00ff', 900000 * n), 'hex') AS a FROM generate_series(0, 2) n",
        ["a"],
    ),
    "rows_of_many_sizes": Shape(
        "CREATE TABLE {0}.shape AS SELECT n AS a, repeat(E'\"\\n,', n * n % 9973) AS b FROM generate_series(1, 1100) n",
        ["a", "b"],
    ),
    "large_rows": Shape(
        "CREATE TABLE {0}.shape AS SELECT n AS a, repeat('x', 60000) AS b FROM generate_series(1, 400) n", ["a", "b"]
    ),
    "as_many_rows_as_a_chunk": Shape("CREATE TABLE {0}.shape AS SELECT n AS a FROM generate_series(1, 1000) n", ["a"]),
    "dropped_and_generated_columns": Shape(
        "CREATE TABLE {0}.shape (a int, gone text, b int GENERATED ALWAYS AS (a * 2) STORED, c int DEFAULT 7);"
        " INSERT INTO {0}.shape (a) SELECT generate_series(1, 700); ALTER TABLE {0}.shape DROP gone,"
        " ADD d text DEFAULT 'added later', ADD e int GENERATED ALWAYS AS IDENTITY",
        ["a", "b", "c", "d", "e"],
    ),
    "materialized_view": Shape(
        "CREATE MATERIALIZED VIEW {0}.shape AS SELECT n AS a FROM generate_series(1, 1200) n", ["a"]
    ),
    "partitioned_table": Shape(
        "CREATE TABLE {0}.shape (a int, b text) PARTITION BY LIST (b);"
        " CREATE TABLE {0}.even PARTITION OF {0}.shape FOR VALUES IN ('even');"
        " CREATE TABLE {0}.odd (b text, a int); ALTER TABLE {0}.shape ATTACH PARTITION {0}.odd FOR VALUES IN ('odd');"
        " INSERT INTO {0}.shape SELECT n, CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END FROM generate_series(1, 1200) n",
        ["a", "b"],
    ),
    "inherited_table": Shape(
        "CREATE TABLE {0}.shape (a int); CREATE TABLE {0}.child (b int) INHERITS ({0}.shape);"
        " INSERT INTO {0}.shape VALUES (1); INSERT INTO {0}.child VALUES (2, 3)",
        ["a"],
    ),
    "unlogged_table_with_holes": Shape(
        "CREATE UNLOGGED TABLE {0}.shape AS SELECT n AS a FROM generate_series(1, 5000) n;"
        " DELETE FROM {0}.shape WHERE a % 4 > 0; UPDATE {0}.shape SET a = -a WHERE a % 8 = 0",
        ["a"],
    ),
}
VIEWS = {
    "view": Shape(
        "CREATE VIEW {0}.shape AS SELECT n AS a, 'x' || n AS b FROM generate_series(1, 1200) n WHERE n % 3 > 0",
        ["b", "a"],
    ),
    "ordered_view": Shape("CREATE VIEW {0}.shape AS SELECT -n AS a FROM generate_series(1, 1200) n ORDER BY 1", ["a"]),
    "grouped_view": Shape(
        "CREATE VIEW {0}.shape AS SELECT n % 7 AS a, array_agg(n) AS b FROM generate_series(1, 1200) n GROUP BY 1",
        ["a", "b"],
    ),
}


@pytest.fixture(scope="module")
def shapes(postgres: str) -> Iterator[str]:
    """Each shape in the schema of its name."""
    with made_database(postgres) as url:
        made = (f"CREATE SCHEMA {name}; {shape.made_by.format(name)}" for name, shape in {**TABLES, **VIEWS}.items())
        asyncio.run(run_sql(url, *made))
        yield url


@every_cursor
@pytest.mark.parametrize("name", TABLES)
async def test_any_table_is_written_as_copy_writes_it(shapes: str, name: str, choice: CursorChoice) -> None:
    await assert_written_as_copy_writes_it(shapes, f"{name}.shape", TABLES[name].columns, choice)


@cursors_of_views
@pytest.mark.parametrize("name", VIEWS)
async def test_any_view_is_written_as_copy_writes_it(shapes: str, name: str, choice: CursorChoice) -> None:
    await assert_written_as_copy_writes_it(shapes, f"{name}.shape", VIEWS[name].columns, choice)


async def assert_written_as_copy_writes_it(
    url: str, relation: str, columns: Sequence[str], choice: CursorChoice
) -> None:
    async with opened(url, choice, relation) as source, plain_session(url) as plain:
        expected = await copied(plain, f"SELECT {', '.join(columns)} FROM {relation}")
        assert_conforms(await source.export(spec(relation, columns)), expected)


@every_cursor
async def test_a_partitioned_table_without_partitions_has_no_rows(database: str, choice: CursorChoice) -> None:
    await run_sql(database, "CREATE TABLE parted (a int) PARTITION BY LIST (a)")
    async with opened(database, choice, "parted") as source:
        assert_conforms(await source.export(spec("parted", ["a"])), b"a\n")


@every_cursor
async def test_generated_columns_that_are_not_stored_are_written(database: str, choice: CursorChoice) -> None:
    async with plain_session(database) as plain:
        if plain.get_server_version().major < 18:
            pytest.skip("this server stores every generated column")
        await plain.execute("CREATE TABLE squares (a int, b int GENERATED ALWAYS AS (a * a) VIRTUAL)")
        await plain.execute("INSERT INTO squares (a) VALUES (3), (NULL), (5)")
        async with opened(database, choice, "squares") as source:
            assert_conforms(await source.export(spec("squares", ["b", "a"])), b"b,a\n9,3\n,\n25,5\n")


@pytest.mark.parametrize("choice", [CursorChoice.AUTO, CursorChoice.COPY, CursorChoice.FETCH])
async def test_generated_columns_of_a_partition_are_written_as_those_of_the_table(
    database: str, choice: CursorChoice
) -> None:
    async with plain_session(database) as plain:
        if plain.get_server_version().major < 18:
            pytest.skip("this server stores every generated column")
        await plain.execute(
            "CREATE TABLE grown (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL) PARTITION BY LIST (a);"
            " CREATE TABLE part (a int, b int GENERATED ALWAYS AS (a * 3) VIRTUAL);"
            " ALTER TABLE grown ATTACH PARTITION part DEFAULT; INSERT INTO grown (a) VALUES (1)"
        )
        async with opened(database, choice, "grown") as source:
            assert_conforms(await source.export(spec("grown", ["a", "b"])), b"a,b\n1,2\n")


HOSTILE_NAMES = [
    'say "hi"', '"', '""', "it's", "'", "two words", " ", " x ", "$1", "$2", "100%", "%s", "%", "UPPER", "Mixed",
    "select", "user", "table", "null", "a.b", ".", "a,b", ",", ";", "--", "/*", "*/", "\\", "\\.", "\\N", "{}",
    "{query}", "{0}", ":name", "?", "@", "line\nfeed", "return\rcarriage", "tab\t", "naïve", "таблица", "北京",
    "\U0001f600", "\ufeffmark", "1", "n" * 63, "ö" * 31, "(", ")", "[a]", "a::text", "=1+1", "E'x'", "$$", "x\x7f",
]  # fmt: skip


@pytest.fixture(scope="module")
def named(postgres: str) -> Iterator[str]:
    """For each hostile name a schema, and in it a table of that name with every hostile name as a column."""
    with made_database(postgres) as url:
        asyncio.run(_make_named(url))
        yield url


async def _make_named(url: str) -> None:
    async with connected(url) as connection:
        quoted = await identifiers(connection, HOSTILE_NAMES)
        columns = ", ".join(f"{name} text DEFAULT {place}" for place, name in enumerate(quoted))
        await connection.execute(f"CREATE TABLE pattern ({columns}); INSERT INTO pattern DEFAULT VALUES")
        for name in quoted:
            await connection.execute(f"CREATE SCHEMA {name}; CREATE TABLE {name}.{name} AS TABLE pattern")


@every_cursor
async def test_hostile_names_of_schemas_tables_and_columns_are_only_names(named: str, choice: CursorChoice) -> None:
    async with plain_session(named) as plain, pooled(named) as pool:
        quoted = await identifiers(plain, HOSTILE_NAMES)
        relations = [f"{name}.{name}" for name in quoted]
        catalog = await read_catalog(pool, relations)
        source = Opened(pool, catalog, choice)
        for name, relation in zip(HOSTILE_NAMES, relations, strict=True):
            assert (catalog[relation].schema, catalog[relation].relation) == (name, name)
            assert list(catalog[relation].columns) == HOSTILE_NAMES
            expected = await copied(plain, f"SELECT {', '.join(quoted)} FROM {relation}")
            assert_conforms(await source.export(spec(relation, HOSTILE_NAMES)), expected)


@every_cursor
async def test_a_hostile_name_is_only_a_name_alone_and_in_a_filter(named: str, choice: CursorChoice) -> None:
    async with opened(named, choice, "pattern") as source, plain_session(named) as plain:
        quoted_names = await identifiers(plain, HOSTILE_NAMES)
        for place, (name, quoted) in enumerate(zip(HOSTILE_NAMES, quoted_names, strict=True)):
            expected = await copied(plain, f"SELECT {quoted} FROM pattern WHERE {quoted} = '{place}'")
            assert expected.endswith(b"\n%d\n" % place)
            condition = Condition(column=name, operator=Operator.EQ, values=("$1", str(place)))
            assert_conforms(await source.export(spec("pattern", [name], condition)), expected)


any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
morsel = st.sampled_from(
    ['"', '""', ",", "\r", "\n", "\r\n", "\\", "\\.", "\\N", "'", ";", "\t", " ", "a", "é", "\U0001f600"]
)
biased_text = st.lists(morsel, max_size=8).map("".join)
field = st.none() | biased_text | any_text
any_character = st.characters(min_codepoint=1, max_codepoint=127, exclude_characters="\r\n")
character = st.sampled_from(",;\t|'\"\\. ") | any_character
dialects = st.tuples(character, character).filter(lambda pair: pair[0] != pair[1])


@pytest.fixture
async def words(database: str, choice: CursorChoice) -> AsyncIterator[tuple[Plain, Opened]]:
    """An empty table of texts, and a source that has it."""
    async with plain_session(database) as plain:
        await plain.execute("CREATE UNLOGGED TABLE words (a text, b text); SET synchronous_commit TO off")
        async with opened(database, choice, "words") as source:
            yield plain, source


@every_cursor
@given(rows=st.lists(st.tuples(field, field), max_size=12), dialect=dialects, both=st.booleans())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_any_text_in_any_dialect_is_written_as_copy_writes_it(
    words: tuple[Plain, Opened], rows: list[tuple[str | None, str | None]], dialect: tuple[str, str], both: bool
) -> None:
    plain, source = words
    await plain.execute("DELETE FROM words")
    await plain.executemany("INSERT INTO words VALUES ($1, $2)", rows)
    columns = ["a", "b"] if both else ["a"]
    delimiter, quote_char = dialect
    expected = await copied(
        plain, f"SELECT {', '.join(columns)} FROM words", delimiter=delimiter, quote_char=quote_char
    )
    asked = spec("words", columns, delimiter=delimiter, quote_char=quote_char)
    assert_conforms(await source.export(asked), expected, asked.dialect)


@every_cursor
async def test_psql_writes_the_same_bytes(
    types: TypesDatabase, source_url: str, shapes: str, choice: CursorChoice
) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is not on PATH")
    few = Condition(column="id", operator=Operator.LTE, values=(str(NASTY),))
    hundred = "a_hundred_columns.shape"
    for url, asked, sql in [
        (types.url, spec("every", types.columns), "SELECT * FROM every"),
        (types.url, spec("every", ["text"]), 'SELECT "text" FROM every'),
        (source_url, spec("users", seeds.COLUMNS, few), f"SELECT * FROM users WHERE id <= {NASTY}"),
        (source_url, spec("users", ["name"], few), f"SELECT name FROM users WHERE id <= {NASTY}"),
        (shapes, spec(hundred, HUNDRED), f"SELECT * FROM {hundred}"),
    ]:
        async with opened(url, choice, asked.dataset) as source:
            assert_conforms(await source.export(asked), await _psql_copy(url, sql))


async def _psql_copy(url: str, sql: str) -> bytes:
    options = (f"-c {name}={value.replace(' ', '')}" for name, value in PLAIN_SESSION.items())
    process = await asyncio.create_subprocess_exec(
        *["psql", "-X", "-q", "-d", url, "-c", rf"\copy ({sql}) TO STDOUT WITH (FORMAT csv, HEADER)"],
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PGOPTIONS": " ".join(options), "PGCLIENTENCODING": "UTF8"},
    )
    written, _ = await process.communicate()
    assert process.returncode == 0
    return written


@every_cursor
@pytest.mark.parametrize(
    ("encoding", "text"), [("LATIN1", "naïve, \xa0\x85ÿ"), ("EUC_JP", "美咲、ー"), ("SQL_ASCII", "plain bytes")]
)
def test_a_database_of_another_encoding_is_written_in_utf_8(
    postgres: str, choice: CursorChoice, encoding: str, text: str
) -> None:
    async def export(url: str) -> None:
        async with plain_session(url) as plain:
            await plain.execute("CREATE TABLE words (a text)")
            await plain.execute("INSERT INTO words VALUES ($1)", text)
            async with opened(url, choice, "words") as source:
                exported = await source.export(spec("words", ["a"]))
            assert text.encode() in exported.body
            assert_conforms(exported, await copied(plain, "SELECT a FROM words"))

    with made_database(postgres, f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        asyncio.run(export(url))


NOISY = "IF n % 10 = 5 THEN RAISE {0} 'row %', n; END IF"


@every_cursor
@pytest.mark.parametrize("level", ["NOTICE", "WARNING"])
async def test_notices_between_rows_cost_no_row(database: str, choice: CursorChoice, level: str) -> None:
    """asyncpg drops the rows in its buffer if there is another message between two of them."""
    async with plain_session(database) as plain, made_role(plain) as role:
        await plain.execute(acting(NOISY.format(level)))
        async with opened(entered_as(database, role), choice, "acting") as source:
            assert_conforms(await source.export(ACTING), numbers(1500))


@every_cursor
async def test_messages_that_cannot_be_suppressed_never_lose_rows_silently(database: str, choice: CursorChoice) -> None:
    """No setting silences INFO: an export that cannot be whole must fail."""
    async with plain_session(database) as plain, made_role(plain) as role:
        await plain.execute(acting(NOISY.format("INFO")))
        async with opened(entered_as(database, role), choice, "acting") as source:
            try:
                exported = await source.export(ACTING)
            except ExportFailure:
                return
        assert_conforms(exported, numbers(1500))


@every_cursor
async def test_functions_of_the_database_never_replace_those_of_pg_catalog(database: str, choice: CursorChoice) -> None:
    await run_sql(
        database,
        "CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'mine'::text $$",
        "CREATE FUNCTION public.format(text, integer) RETURNS text LANGUAGE sql AS $$ SELECT 'mine'::text $$",
        "CREATE TABLE words AS SELECT 1 AS a, 'x'::text AS b",
    )
    async with opened(database, choice, "words") as source:
        assert_conforms(await source.export(spec("words", ["a", "b"])), b"a,b\n1,x\n")


@every_cursor
async def test_chunks_of_large_rows_stay_small(shapes: str, choice: CursorChoice) -> None:
    """A chunk is held as a whole by the cursor and its sink: its size is a part of the memory budget."""
    async with opened(shapes, choice, "large_rows.shape") as source:
        exported = await source.export(spec("large_rows.shape", ["a", "b"]))
    assert max(len(chunk) for chunk, _ in exported.chunks) < 8 * 1024 * 1024
