"""Filters: PostgreSQL compares exactly what the client asks, for every type and operator, and executes nothing else.

Random filters are compared with the same filter in Python over the rows; each operator of each type with the same
comparison on a plain connection. After every attack, the statement log of PostgreSQL has only statements of known
forms.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from streamer.config import Names
from streamer.http.api.general import GENERAL
from streamer.model import Operator
from streamer.server.tuning import Tuning
from streamer.source.catalog.filters import SUFFIXES
from streamer.source.catalog.introspection import read_catalog
from streamer.source.source import CursorChoice
from tests.asking import read_spec
from tests.conftest import Serve, Server, connected, made_database
from tests.integration.sources import Opened, every_cursor, identifiers, opened, plain_session, pooled, run_sql

# Random filters


MOODS = ["low", "middle", "high"]
WORDS = [
    "",
    "a",
    "A",
    "ab",
    "abc",
    "b%",
    "b_",
    "b\\",
    "%",
    "_",
    "\\",
    "é",
    "É",
    "z",
    "'",
    '"',
    "\U0001f600",
    "a b",
    None,
]
DAYS = [date(2024, 2, 28) + timedelta(days=n) for n in range(4)]
UUIDS = [UUID(int=n) for n in (0, 1, 2**127)]
ROWS = 150
COLUMNS = {
    "n": "bigint",
    "price": "numeric",
    "words": 'text COLLATE "C"',
    "code": 'char(4) COLLATE "C"',
    "day": "date",
    "at": "timestamptz",
    "moment": "timestamp",
    "flag": "boolean",
    "mood": "mood",
    "key": "uuid",
    "span": "interval",
}

Row = dict[str, Any]


def _rows() -> list[Row]:
    """Generates values that are often equal, often neighbours, and often NULL."""
    return [
        {
            "n": None if k % 11 == 0 else k % 13 - 6,
            "price": None if k % 7 == 0 else Decimal(k % 9) / 4,
            "words": WORDS[k % len(WORDS)],
            "code": None if k % 5 == 0 else ["a", "ab", "", "a b", "z%"][k % 4],
            "day": None if k % 6 == 0 else DAYS[k % 4],
            "at": None if k % 8 == 0 else datetime(2024, 2, 29, k % 24, tzinfo=UTC) + timedelta(days=k % 3 - 1),
            "moment": None if k % 9 == 0 else datetime(2024, 2, 29, k % 24) + timedelta(days=k % 3 - 1),
            "flag": [True, False, None][k % 3],
            "mood": [*MOODS, None][k % 4],
            "key": [*UUIDS, None][k % 4],
            "span": None if k % 4 == 0 else timedelta(hours=k % 5 * 12),
        }
        for k in range(ROWS)
    ]


TABLE = _rows()


@pytest.fixture(scope="module")
def things(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(_make_things(url))
        yield url


async def _make_things(url: str) -> None:
    async with connected(url) as connection:
        declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        await connection.execute(
            f"CREATE TYPE mood AS ENUM ('low', 'middle', 'high'); CREATE TABLE things (row int, {declared})"
        )
        places = ", ".join(f"${place}" for place in range(1, len(COLUMNS) + 2))
        await connection.executemany(
            f"INSERT INTO things VALUES ({places})",
            [(place, *(row[name] for name in COLUMNS)) for place, row in enumerate(TABLE)],
        )


def sortable(column: str, value: Any) -> Any:
    """Returns a key that orders values as their type does."""
    if column == "mood":
        return MOODS.index(value)
    return value.rstrip(" ") if column == "code" else value


def as_asked(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, timedelta):
        return f"{value.total_seconds() / 3600:g} hours"
    return value.isoformat() if isinstance(value, date) else str(value)


COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "__gte": lambda found, asked: found >= asked,
    "__gt": lambda found, asked: found > asked,
    "__lte": lambda found, asked: found <= asked,
    "__lt": lambda found, asked: found < asked,
    "_min": lambda found, asked: found >= asked,
    "_from": lambda found, asked: found >= asked,
    "_max": lambda found, asked: found <= asked,
    "_to": lambda found, asked: found <= asked,
}


@dataclass(frozen=True)
class Filter:
    name: str
    texts: tuple[str, ...]
    holds: Callable[[Row], bool]


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    """A parameter, and the same filter in Python. NULL is neither equal nor different nor more nor less."""
    column = draw(st.sampled_from(sorted(COLUMNS)))
    known = st.sampled_from([row[column] for row in TABLE if row[column] is not None])
    kinds = ["", "__in", "__ne", "__isnull", *COMPARED]
    kind = draw(st.sampled_from([*kinds, "__contains", "__startswith"] if column == "words" else kinds))
    if kind == "__isnull":
        null = draw(st.booleans())
        return Filter(column + kind, (as_asked(null),), lambda row: (row[column] is None) is null)
    if kind in ("__contains", "__startswith"):
        part = draw(st.text("aAb%_\\é' ", min_size=1, max_size=2))
        found = str.__contains__ if kind == "__contains" else str.startswith
        return Filter(column + kind, (part,), lambda row: row[column] is not None and bool(found(row[column], part)))
    if kind in COMPARED:
        return _comparison(column, kind, draw(known))
    several = draw(st.lists(known.filter(lambda value: as_asked(value) != ""), min_size=1, max_size=3))
    wanted = [sortable(column, value) for value in several]
    return Filter(
        column + kind,
        tuple(map(as_asked, several)),
        lambda row: row[column] is not None and (sortable(column, row[column]) in wanted) is (kind != "__ne"),
    )


def _comparison(column: str, kind: str, value: Any) -> Filter:
    bound = sortable(column, value)
    compare = COMPARED[kind]
    return Filter(
        column + kind,
        (as_asked(value),),
        lambda row: row[column] is not None and compare(sortable(column, row[column]), bound),
    )


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(asked=st.lists(filters(), max_size=3, unique_by=lambda each: meaning(each.name)))
async def test_random_filters_select_the_rows_that_python_selects(things_source: Opened, asked: list[Filter]) -> None:
    body = {"dataset": "things", "columns": ["row"], "filters": {each.name: list(each.texts) for each in asked}}
    for each in asked:
        if len(each.texts) == 1 and not each.name.endswith("__in"):
            body["filters"][each.name] = each.texts[0]  # type: ignore[index]
    exported = await things_source.export(read_spec([], json.dumps(body).encode(), things_source.catalog))
    wanted = [place for place, row in enumerate(TABLE) if all(each.holds(row) for each in asked)]
    assert exported.body.decode().split() == ["row", *map(str, wanted)]


def meaning(name: str) -> tuple[str, Operator]:
    for suffix, operator in SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), operator
    return name, Operator.EQ


@pytest.fixture
async def things_source(things: str) -> Any:
    async with opened(things, CursorChoice.COPY, "things") as source:
        yield source


@pytest.mark.parametrize("order", ["n", "-price", "words", "-code", "mood", "-at,n", "span,-key,words"])
@every_cursor
async def test_rows_have_the_requested_order(things: str, choice: CursorChoice, order: str) -> None:
    """NULL is larger than everything. Equal rows have any order, and none is missing."""
    async with opened(things, choice, "things") as source:
        exported = await source.export(read_spec([("dataset", "things"), ("order_by", order)], b"", source.catalog))
    names = [(each.removeprefix("-"), each.startswith("-")) for each in order.split(",")]
    rows = [int(line.split(",")[0]) for line in exported.body.decode().splitlines()[1:]]
    assert sorted(rows) == list(range(ROWS))
    wanted = list(range(ROWS))
    for name, descending in reversed(names):
        wanted.sort(key=lambda place: _with_null_last(name, TABLE[place]), reverse=descending)
    keys = [[_with_null_last(name, TABLE[place]) for name, _ in names] for place in rows]
    assert keys == [[_with_null_last(name, TABLE[place]) for name, _ in names] for place in wanted]


def _with_null_last(name: str, row: Row) -> tuple[bool, Any]:
    return (row[name] is None, None if row[name] is None else sortable(name, row[name]))


@every_cursor
@pytest.mark.parametrize("order", [[], [("order_by", "row")]], ids=["in_any_order", "ordered"])
@pytest.mark.parametrize(
    ("limit", "rows", "truncated"),
    [("0", 0, True), ("1", 1, True), ("149", 149, True), ("150", 150, False), ("9" * 18, 150, False)],
)
async def test_truncated_is_true_exactly_if_the_limit_has_cut_rows(
    things: str, choice: CursorChoice, order: list[tuple[str, str]], *, limit: str, rows: int, truncated: bool
) -> None:
    async with opened(things, choice, "things") as source:
        asked = read_spec(
            [("dataset", "things"), ("columns", "row,words"), ("limit", limit), *order], b"", source.catalog
        )
        received = bytearray()

        async def take(page: bytes | bytearray, _: int) -> None:
            received.extend(page)

        async with source.source.open(asked) as opened_rows:
            total = await opened_rows.drain(take)
            assert (total, opened_rows.truncated) == (rows, truncated)
            assert opened_rows.expected <= int(limit)
    assert received.count(b"\n") == rows + 1
    assert received.endswith(b"\n")


# Every type and operator


TYPES = {
    "smallint": ("smallint", "5"), "numeric": ("numeric(9,2)", "1.50"), "double": ("float8", "-1.5e3"),
    "money": ("money", "$1,234.50"), "bool": ("boolean", "true"), "text": ("text", "it's 100%_"),
    "varchar": ("varchar(9)", "x"), "bpchar": ("char(5)", "ab"), "one": ('"char"', "x"), "name": ("name", "some"),
    "bytea": ("bytea", "\\x00ff"), "day": ("date", "2024-02-29"), "clock": ("time", "12:30"),
    "zoned_clock": ("timetz", "12:30+01"), "moment": ("timestamp", "2024-02-29T12:00"),
    "zoned": ("timestamptz", "2024-02-29T12:00+01:00"), "span": ("interval", "1 mon 2 days"),
    "uuid": ("uuid", "12345678-1234-4678-9234-567812345678"), "jsonb": ("jsonb", '{"a": [1, null]}'),
    "inet": ("inet", "10.0.0.1/8"), "cidr": ("cidr", "10.0.0.0/8"), "mac": ("macaddr", "08:00:2b:01:02:03"),
    "bits": ("bit(3)", "101"), "tsvector": ("tsvector", "'a' 'b'"), "tsquery": ("tsquery", "'a' & 'b'"),
    "ints": ("int[]", "{1,NULL}"), "texts": ("text[]", '{"a,b",NULL}'), "range": ("int4range", "[1,5)"),
    "multirange": ("int4multirange", "{[1,5)}"), "enum": ("mood", "so, so"), "enums": ("mood[]", '{ok,"so, so"}'),
    "domain": ("code", "ab"), "pairs": ("pair[]", '{"(1,a)"}'), "oid": ("oid", "5"), "lsn": ("pg_lsn", "0/10"),
    "xid": ("xid", "7"), "tid": ("tid", "(0,1)"), "json": ("json", "{}"), "point": ("point", "(1,2)"),
    "pair": ("pair", "(1,a)"), "jsons": ("json[]", "{}"), "path": ("jsonpath", "$.a"),
}  # fmt: skip
WITHOUT_EQUALITY = {"json", "point", "pair", "jsons", "path"}
WITHOUT_ORDER = WITHOUT_EQUALITY - {"pair"} | {"xid"}
SQL = {"eq": "=", "ne": "<>", "gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}


@pytest.fixture(scope="module")
def typed(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(_make_typed(url))
        yield url


async def _make_typed(url: str) -> None:
    declared = ", ".join(f'"{name}" {kind}' for name, (kind, _) in TYPES.items())
    await run_sql(
        url,
        "CREATE TYPE mood AS ENUM ('ok', 'so, so'); CREATE DOMAIN code AS char(3) CHECK (VALUE <> 'no');"
        "CREATE TYPE pair AS (a int, b text)",
        f"CREATE TABLE typed (id int, {declared})",
        "INSERT INTO typed (id) VALUES (1)",
    )
    async with connected(url) as connection:
        literals = [await connection.fetchval("SELECT quote_literal($1)", text) for _, text in TYPES.values()]
        await connection.execute(f"INSERT INTO typed VALUES (2, {', '.join(literals)})")


async def test_every_operator_of_every_type_compares_as_the_type_does(typed: str) -> None:
    async with opened(typed, CursorChoice.COPY, "typed") as source, plain_session(typed) as plain:
        columns = source.catalog["typed"].columns
        for name, (_, text) in TYPES.items():
            quoted, literal = await plain.fetchrow("SELECT quote_ident($1), quote_literal($2)", name, text)
            for operator in columns[name].operators:
                wanted = [{"id": 2}]
                if operator.value in SQL:
                    wanted = await plain.fetch(f"SELECT id FROM typed WHERE {quoted} {SQL[operator.value]} {literal}")
                asked = name if operator is Operator.EQ else f"{name}__{operator.value}"
                value = "false" if operator is Operator.ISNULL else text
                spec = read_spec([("dataset", "typed"), ("columns", "id"), (asked, value)], b"", source.catalog)
                exported = await source.export(spec)
                assert exported.body.split() == [b"id", *(str(row["id"]).encode() for row in wanted)], asked
            if columns[name].ordered:
                spec = read_spec(
                    [("dataset", "typed"), ("columns", "id"), ("order_by", f"-{name}")], b"", source.catalog
                )
                assert (await source.export(spec)).body.split() == [b"id", b"1", b"2"]
        assert {name for name in TYPES if Operator.EQ not in columns[name].operators} == WITHOUT_EQUALITY
        assert {name for name in TYPES if not columns[name].ordered} == WITHOUT_ORDER


async def test_operators_of_an_extension_outside_of_the_search_path_are_found(database: str) -> None:
    async with plain_session(database) as plain:
        if not await plain.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')"):
            pytest.skip("this server has no citext")
        await plain.execute('CREATE SCHEMA "Far Away"; CREATE EXTENSION citext SCHEMA "Far Away"')
        await plain.execute(
            "CREATE TABLE words AS SELECT w::\"Far Away\".citext AS w FROM unnest('{A,b,NULL}'::text[]) w"
        )
        async with opened(database, CursorChoice.AUTO, "words") as source:
            for asked, wanted in [("w=a", ["A"]), ("w__in=a,B", ["A", "b"]), ("w__ne=a", ["b"]), ("w__gt=A", ["b"])]:
                name, _, value = asked.partition("=")
                exported = await source.export(read_spec([("dataset", "words"), (name, value)], b"", source.catalog))
                assert exported.body.decode().split() == ["w", *wanted], asked


LIKE_NEEDS_DETERMINISM = 180000  # before this version of PostgreSQL


async def test_text_search_is_offered_exactly_if_the_collation_allows_it(
    database: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    async with plain_session(database) as plain:
        version = int(await plain.fetchval("SHOW server_version_num"))
        try:
            await plain.execute(
                "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
        except asyncpg.FeatureNotSupportedError:
            pytest.skip("this server has no ICU")
        await plain.execute(
            "CREATE DOMAIN blind_word AS text COLLATE blind;"
            'CREATE TABLE words (usual text, blind text COLLATE blind, word blind_word, c blind_word COLLATE "C");'
            "INSERT INTO words VALUES ('Anna', 'Anna', 'Anna', 'Anna')"
        )
    server = await serve(source_database_url=database, datasets=Names(("words",)))
    async with session.get(f"{server.url}/datasets/words") as response:
        offered = {column["name"]: column["parameters"] for column in (await response.json())["columns"]}
    for name in ("usual", "blind", "word", "c"):
        allowed = name in ("usual", "c") or version >= LIKE_NEEDS_DETERMINISM
        for asked, text in ((f"{name}__contains", "nn"), (f"{name}__startswith", "An")):
            assert (asked in offered[name]) is allowed
            query = {"dataset": "words", "columns": "c", asked: text}
            async with session.get(f"{server.url}/exports/csv", params=query) as response:
                if allowed:
                    assert await response.text() == "c\nAnna\n", asked
                else:
                    assert (response.status, (await response.json())["parameter"]) == (400, asked)
        query = {"dataset": "words", "columns": "c", name: "anna", "profile": "excel", "bom": "false"}
        async with session.get(f"{server.url}/exports/csv", params=query) as response:
            assert await response.text() == ("c\nAnna\n" if name in ("blind", "word") else "c\n")


# Attacks


PAYLOADS = [
    "'; DROP TABLE victims; --", '"; DROP TABLE victims; --', "') OR 1=1; --", "\\'; DROP TABLE victims; --",
    "E'\\'' OR true", "$1", "$$; DROP TABLE victims; $$", "1); DELETE FROM victims; --",
    "x' UNION SELECT rolpassword FROM pg_authid --",
    "pg_sleep(5)", "/* */", "%s%n", "id FROM victims; --", "victims", "\\x27", "\u02bc OR 1=1", "1e400",
    "9" * 3000, "-" + "9" * 500,
    "0x10", "{}", '{"$gt": ""}', "NULL", "a\x00b", "\ud800", "\u202egpj", "\n--\n",
]  # fmt: skip
VICTIMS = """
    CREATE TYPE mood AS ENUM ('ok');
    CREATE TABLE victims (id int, words text, mood mood, span interval, tags text[], at timestamptz);
    INSERT INTO victims VALUES (1, 'kept', 'ok', '1 day', '{a}', now());
"""
# The forms of every statement that may be logged, with equal identifiers, literals and numbers.
CONDITION = r'"i" (?:IN \((?:\?, )*\?\)|(?:>=|>|<=|<|LIKE) \?|IS (?:NOT )?DISTINCT FROM NULL)'
CONDITIONS = rf"(?: WHERE (?:NOT )?{CONDITION}(?: AND (?:NOT )?{CONDITION})*)?"
GUARD = (
    r"\(SELECT CASE WHEN pg_catalog\.(?:count|to_regclass)\(.*?::pg_catalog\.bool END"
    r"(?: FROM \(SELECT DISTINCT relation AS oid FROM pg_catalog\.pg_locks .*?\) held "
    r"WHERE oid >= \? AND oid <> ALL \( ?\?::pg_catalog\.oid\[\]\))?\)"
)
QUERY = (
    rf'SELECT(?: "i"(?:, "i")*)? FROM "i"\."i" AS "i"{CONDITIONS}(?: (?:WHERE|AND) {GUARD})?'
    rf'(?: ORDER BY "i"\."i"(?: DESC)?)?(?: LIMIT \?)?'
)
INTENDED = [
    r"(?:ROLLBACK|COMMIT);?",
    r"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY(?:; SET LOCAL \w+ = \?)*"
    r"(?:; LOCK TABLE \"i\"\.\"i\" IN ACCESS SHARE MODE)?"
    r"; SELECT pg_catalog.set_config\(\?, pg_catalog.clock_timestamp\(\)::pg_catalog.text, true\)",
    r"SELECT nullif\(pg_catalog.current_setting\(\?, true\), \?\)::pg_catalog.timestamptz AS taken_at, .*",
    r"SELECT pg_catalog.hashtextextended\(.*? FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass\(\$\?\)",
    r"SELECT held\.oid, c\.relkind, .* FROM pg_catalog\.pg_locks .*? held .*",
    r"SELECT pg_catalog.array_agg\(pg_catalog.quote_literal\(value\) ORDER BY place\) FROM pg_catalog.unnest.*",
    r"SELECT \$\?::pg_catalog.text",
    rf"EXPLAIN \(VERBOSE, FORMAT JSON\) {QUERY}",
    rf"COPY \({QUERY}\) TO STDOUT \(FORMAT \?(?:, \w+ \?)*\)",
    r"SELECT n.nspname AS schema, c.relname AS name, c.oid, \(pg_relation_size.*",
    r"SELECT pg_advisory_unlock_all\(\);.*",
]


def statements(log: str) -> list[str]:
    """Returns the form of a statement: its identifiers, literals and numbers are replaced."""
    entries = re.split(r"^[0-9-]{10} [0-9:.]+ \w+ \[[0-9]+\] ", log, flags=re.MULTILINE)
    found = (re.match(r"LOG:  (?:statement|execute [^:]*): (.*)", entry, re.DOTALL) for entry in entries)
    return [_alike(match[1]) for match in found if match]


def _alike(statement: str) -> str:
    without_literals = re.sub(r" ?E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'", " ?", statement, flags=re.DOTALL)
    without_names = re.sub(r'"(?:[^"]|"")*"', '"i"', without_literals)
    alike = re.sub(r"\b[0-9]+\b", "?", without_names)
    return re.sub(r"\(\s+", "(", re.sub(r"\s+", " ", alike)).strip()


def log_of(url: str) -> Path:
    folder = parse_qs(urlsplit(url).query).get("host", [""])[0]
    log = Path(folder) / "log"
    if not folder or not log.is_file():
        pytest.skip("the log of this server cannot be read from here")
    return log


@pytest.fixture
def logged(postgres: str) -> Iterator[str]:
    """A database that logs every statement."""
    with made_database(postgres) as url:
        asyncio.run(run_sql(url, VICTIMS, f"ALTER DATABASE {urlsplit(url).path[1:]} SET log_statement = 'all'"))
        yield url


async def test_hostile_requests_never_change_the_form_of_a_statement(
    logged: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """SQL and control characters in every name and every value, in the query and in the body."""
    log = log_of(logged)
    server = await serve(source_database_url=logged, datasets=Names(("victims",)))
    start = log.stat().st_size
    answered = 0
    for payload in PAYLOADS:
        for name in attacked_names():
            answered += await attack(session, server, {name: payload})
        answered += await attack(session, server, {payload: "1"})
        if payload != "victims" and "\ud800" not in payload:
            async with session.get(URL(f"{server.url}/datasets/{quote(payload, safe='')}", encoded=True)) as response:
                assert response.status in (404, 414)
    assert answered > 1000
    said = log.read_bytes()[start:].decode()
    executed = statements(said)
    assert any(statement.startswith("COPY") for statement in executed)
    intended = re.compile("|".join(INTENDED))
    strange = [each for each in executed if not intended.fullmatch(each)]
    assert not strange, strange[:5]
    async with connected(logged) as connection:
        assert await connection.fetchval("SELECT count(*) FROM victims") == 1


def attacked_names() -> list[str]:
    columns = ["id", "words", "mood", "tags"]
    operators = ["", "__in", "__ne", "__gte", "__contains"]
    return [*GENERAL, "filters", *(column + operator for column in columns for operator in operators)]


async def attack(session: aiohttp.ClientSession, server: Server, asked: dict[str, str]) -> int:
    """Sends the value in the body and, if it can be encoded, in the query. Returns the number of responses."""
    url = URL(server.url).with_path("/exports/csv")
    body = json.dumps({"dataset": "victims", **asked}).encode()
    async with session.get(url, data=body) as response:
        await harmless(response)
    if any("\ud800" in text or len(text) > 1000 for text in (*asked, *asked.values())):
        return 1
    async with session.get(url.with_query({"dataset": "victims", **asked})) as response:
        await harmless(response)
    return 2


async def harmless(response: aiohttp.ClientResponse) -> None:
    """Expects 400 with a sentence, or an export of the rows that match."""
    text = await response.text()
    if response.status == 200:
        assert text.count("\n") <= 2
        return
    assert response.status == 400, text
    detail = json.loads(text)["detail"]
    assert detail.isprintable()
    assert len(detail) < 800


async def test_value_that_cannot_be_checked_in_time_gets_503_and_creates_no_export(
    database: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await run_sql(database, VICTIMS)
    tuning = Tuning(check_timeout=0.3)
    server = await serve(tuning=tuning, source_database_url=database, datasets=Names(("victims",)))
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE victims IN ACCESS EXCLUSIVE MODE")
        async with session.post(f"{server.url}/exports/csv?dataset=victims&mood=ok") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
    async with session.get(f"{server.url}/exports/csv?dataset=victims&mood=ok&columns=id") as response:
        assert await response.read() == b"id\n1\n"
    async with connected(server.settings.database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM streamer.exports") == 1


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "10,000 numbers": ({"id": [1] * 10_000}, "id: must have at most 1000 values, not 10000"),
    "10,000 texts": ({"words__ne": ["x"] * 6000}, "words__ne: must have at most 1000 values, not 6000"),
    "an enormous number": ({"id": 10**4000}, "id: must be a whole number from -2147483648 to 2147483647"),
    "an enormous limit": ({"limit": 10**30}, "limit: must be a whole number of rows"),
    "a negative limit": ({"limit": -1}, "limit: must be a whole number of rows"),
    "an enormous NULL": ({"null": "x" * 1000}, "null: must be at most 64 printable characters"),
    "a line break for NULL": ({"null": "a\nb"}, "null: must be at most 64 printable characters"),
    "the delimiter for NULL": ({"null": "a,b"}, "null: must not contain the delimiter or the quote"),
    "the end of data for NULL": ({"null": "\\."}, "null: must not be the end-of-data mark"),
    "NUL": ({"words__contains": "a\0b"}, "words__contains: must be valid Unicode text without NUL"),
    "NUL for an enum": ({"mood": "\0"}, "mood: must be valid Unicode text without NUL"),
    "a lone surrogate": ({"tags": "{\ud800}"}, "tags: must be valid Unicode text without NUL"),
    "no value of an enum": ({"mood__in": ["ok", "no"]}, 'mood: invalid input value for enum mood: "no"'),
    "no interval": ({"span__gte": "long"}, 'span__gte: invalid input syntax for type interval: "long"'),
    "no array": ({"tags": "{a"}, 'tags: malformed array literal: "{a"'),
    "an operator that the type has not": ({"mood__contains": "o"}, "mood__contains: unknown operator for mood"),
    "an order that there is not": ({"order_by": "nothing"}, "order_by: there is no column 'nothing'"),
    "an order twice": ({"order_by": "id,-id"}, "order_by: names a column twice"),
    "no profile": ({"profile": "word"}, "profile: must be excel, not 'word'"),
    "no form of time": ({"timestamps": "unix"}, "timestamps: must be postgres or iso8601, not 'unix'"),
    "neither true nor false": ({"header": "yes"}, "header: must be true or false, not 'yes'"),
    "null is neither": ({"id__isnull": "null"}, "id__isnull: must be true or false, not 'null'"),
}


async def test_excessive_and_strange_requests_are_refused_with_a_sentence_and_create_no_export(
    database: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await run_sql(database, VICTIMS)
    server = await serve(source_database_url=database, datasets=Names(("victims",)))
    for case, (asked, sentence) in TOO_MUCH.items():
        async with session.post(f"{server.url}/exports/csv", json={"dataset": "victims", **asked}) as response:
            found = await response.json()
            assert (response.status, found["detail"][: len(sentence)]) == (400, sentence), case
            assert found["detail"].isprintable()
    nested = b'{"dataset": "victims", "words": ' + b"[" * 15_000 + b"]" * 15_000 + b"}"
    async with session.post(f"{server.url}/exports/csv", data=nested) as response:
        assert (response.status, (await response.json())["error"][:9]) == (400, "the body ")
    long = URL(server.url).with_path("/exports/csv").with_query([("dataset", "victims"), *[("id", "1")] * 1500])
    async with session.post(long) as response:
        assert response.status in (400, 414)
    async with connected(server.settings.database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM streamer.exports") == 0
    assert server.files() == set()


async def test_columns_with_names_of_parameters_are_filtered_with_an_operator(database: str) -> None:
    async with plain_session(database) as plain, pooled(database) as pool:
        names = [*GENERAL, "filters", "live", "filename"]
        quoted = await identifiers(plain, names)
        await plain.execute(f"CREATE TABLE odd ({', '.join(f'{name} int' for name in quoted)})")
        await plain.execute(f"INSERT INTO odd VALUES ({', '.join('1' for _ in names)})")
        source = Opened(pool, await read_catalog(pool, ["odd"]), CursorChoice.AUTO)
        for name in names:
            spec = read_spec([("dataset", "odd"), ("columns", name), (f"{name}__in", "1,2")], b"", source.catalog)
            assert (await source.export(spec)).body.decode() == f"{name}\n1\n"
