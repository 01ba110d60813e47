"""The source against a real PostgreSQL, with every cursor: sessions and snapshots, filters, and failures.

The parts without a cursor are tested at the end: the catalog, and the retries of `connect`. What an export leaves
behind is checked on another connection: no query runs, and every connection of the pool answers.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import ge, gt, le, lt
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import pytest

from streamer.errors import ExportFailure, StartError
from streamer.model import Condition, Operator
from streamer.postgres.driver import Pool
from streamer.postgres.pool import connect
from streamer.source.catalog.introspection import read_catalog
from streamer.source.cursors.block_ranges import FIRST_BLOCKS, BlockRange, ReorderBuffer
from streamer.source.cursors.blocks import BlockCursor, BlockReading
from streamer.source.cursors.copy import CopyCursor
from streamer.source.dataset import Column
from streamer.source.session.connections import Connections
from streamer.source.source import CursorChoice, Source
from tests.conftest import at_database, connected, made_database
from tests.integration.sources import (
    ACTING,
    OTHERS,
    PASSWORD,
    POOL_SIZE,
    WAIT,
    WORKERS,
    Opened,
    Plain,
    Received,
    SinkAt,
    acting,
    assert_all_granted,
    assert_all_usable,
    assert_conforms,
    assert_nothing_runs,
    copied,
    cursors_of_views,
    entered_as,
    eventually,
    every_cursor,
    numbers,
    opened,
    pooled,
    run_sql,
    running,
    spec,
)
from tests.polling import until
from tests.ports import free_port


@pytest.fixture(scope="module")
def shared_database(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(run_sql(url, "CREATE SCHEMA kept; GRANT USAGE ON SCHEMA kept TO PUBLIC", MADE_VAST, MADE_FINE))
        yield url


VAST = spec("kept.vast", ["n", "words"])
MADE_VAST = """
    CREATE UNLOGGED TABLE kept.vast AS
    SELECT n, repeat(chr(97 + n % 26), 1000) AS words FROM generate_series(1, 30000) n
"""
"""Thirty megabytes, more than the sockets between server and sink buffer, so that an export can be interrupted."""
FINE = spec("kept.fine", ["n"])
MADE_FINE = """
    CREATE UNLOGGED TABLE kept.fine AS SELECT n, repeat('x', 1000) AS filling FROM generate_series(1, 1500) n;
    GRANT SELECT ON kept.fine TO PUBLIC
"""
"""A table with enough blocks for all connections of a source, to check that it works."""


@pytest.fixture
async def database(shared_database: str) -> str:
    """The URL of a database with the defaults of its server, and only the tables in `kept`.

    To clear a database is faster than to create one.
    """
    async with connected(shared_database) as connection:
        await terminate_others(connection)
        here = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"ALTER DATABASE {here} RESET ALL")
        await connection.execute("DROP SCHEMA IF EXISTS public, closed, kinds CASCADE")
        await connection.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")
    return shared_database


# The session


HOSTILE = {
    "timezone": "Asia/Kolkata",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "escape_string_warning": "on",
    "backslash_quote": "on",
    "synchronize_seqscans": "on",
    "xmlbinary": "hex",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "max_parallel_workers_per_gather": "4",
    "cursor_tuple_fraction": "0.0001",
    "client_min_messages": "debug1",
    "row_security": "off",
}
SENSITIVE = r"""
    CREATE UNLOGGED TABLE sensitive AS SELECT
        n,
        timestamptz '2024-03-04 05:06:07.89+00' + n * interval '1 day' AS moment,
        timestamp '2024-03-04 05:06:07.89' AS local_moment,
        date '2024-03-04' + n AS day,
        timetz '05:06:07+02' AS zoned_time,
        interval '1 year -2 days 03:04:05.6' * n AS span,
        decode('00ff5c2c22', 'hex') AS bytes,
        n * 0.1::float8 / 3 AS double,
        n * 0.1::float4 / 3 AS single,
        ARRAY[0.1::float8 / 3, 1e-320] AS doubles,
        tstzrange('2024-03-04 05:06:07+00', NULL) AS span_of_time,
        n * 1234.5::numeric::money AS price,
        E'back\\slash, é' AS words
    FROM generate_series(0, 4000) n
"""


@pytest.fixture
async def hostile(database: str, plain: Plain, role: str) -> str:
    """The URL of a database with hostile defaults, also of its role; it has the table `sensitive`."""
    await plain.execute(SENSITIVE)
    await plain.execute(f"GRANT SELECT ON sensitive TO {role}")
    for place, (name, value) in enumerate(HOSTILE.items()):
        if place % 2:
            await plain.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
        else:
            await set_default(plain, name, value)
    locales = "SELECT collcollate FROM pg_collation WHERE collprovider = 'c' AND collname ~ '^(de|en|fr)_..[.]' LIMIT 1"
    if locale := await plain.fetchval(locales):
        await set_default(plain, "lc_monetary", locale)
    return entered_as(database, role)


async def set_default(plain: Plain, name: str, value: str) -> None:
    """Sets a default for every session that connects from now on."""
    here = await plain.fetchval("SELECT quote_ident(current_database())")
    await plain.execute(f"ALTER DATABASE {here} SET {name} = '{value}'")


@every_cursor
async def test_hostile_defaults_of_database_and_role_change_no_byte(
    hostile: str, plain: Plain, choice: CursorChoice
) -> None:
    expected = await copied(plain, "SELECT * FROM sensitive")
    async with connected(hostile) as disturbed:
        assert await copied(disturbed, "SELECT * FROM sensitive") != expected, "nothing was hostile"
    async with opened(hostile, choice, "sensitive") as source:
        columns = list(source.catalog["sensitive"].columns)
        assert_conforms(await source.export(spec("sensitive", columns)), expected)


@every_cursor
@pytest.mark.parametrize(("delimiter", "quote_char"), [("\\", '"'), (",", "\\"), ("'", "\\"), ("\\", "'")])
async def test_backslashes_as_escapes_do_not_change_how_a_dialect_is_read(
    hostile: str, plain: Plain, choice: CursorChoice, delimiter: str, quote_char: str
) -> None:
    expected = await copied(plain, "SELECT n, words FROM sensitive", delimiter=delimiter, quote_char=quote_char)
    async with opened(hostile, choice, "sensitive") as source:
        asked = spec("sensitive", ["n", "words"], delimiter=delimiter, quote_char=quote_char)
        assert_conforms(await source.export(asked), expected, asked.dialect)


@cursors_of_views
async def test_hostile_defaults_change_no_byte_of_xml(database: str, plain: Plain, choice: CursorChoice) -> None:
    try:
        await plain.execute("CREATE VIEW made AS SELECT xmlelement(name bytes, decode('00ff', 'hex')) AS a")
    except Exception as error:
        pytest.skip(f"this server has no XML: {error}")
    await set_default(plain, "xmlbinary", "hex")
    async with opened(database, choice, "made") as source:
        assert_conforms(await source.export(spec("made", ["a"])), b"a\n<bytes>AP8=</bytes>\n")


@every_cursor
async def test_quoting_all_identifiers_changes_no_byte(database: str, plain: Plain, choice: CursorChoice) -> None:
    await plain.execute("CREATE TABLE names AS SELECT 'pg_class'::regclass AS a")
    await set_default(plain, "quote_all_identifiers", "on")
    async with opened(database, choice, "names") as source:
        assert_conforms(await source.export(spec("names", ["a"])), b"a\npg_class\n")


def sleeping(seconds: float, *rows: int) -> str:
    """Returns SQL for `acting` that makes the server sleep at each of these rows."""
    return f"IF n = ANY ('{{{', '.join(map(str, rows))}}}') THEN PERFORM pg_sleep({seconds}); END IF"


TIMEOUTS = ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"]


@every_cursor
@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_a_timeout_of_the_database_does_not_end_an_export(
    database: str, plain: Plain, role: str, choice: CursorChoice, timeout: str
) -> None:
    """The server is slow at one row and the sink at one chunk, each for longer than the timeout."""
    if not await plain.fetchval("SELECT EXISTS (SELECT FROM pg_settings WHERE name = $1)", timeout):
        pytest.skip(f"this server has no {timeout}")
    await plain.execute(acting(sleeping(0.5, 900)))
    async with opened(entered_as(database, role), choice, "acting") as source:
        await set_default(plain, timeout, "300ms")
        await source.pool.expire_connections()  # the connection that has read the catalog does not have the timeout
        sink = SinkAt(1, lambda: asyncio.sleep(0.5))
        sink.received.total = await source.drain(ACTING, sink.take)
    assert_conforms(sink.received, numbers(1500))


@every_cursor
async def test_a_lock_timeout_of_the_database_does_not_end_an_export(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE locked AS SELECT 1 AS a")
    await set_default(plain, "lock_timeout", "100ms")
    async with (
        opened(database, choice, "locked") as source,
        locked(database, "locked") as unlock,
        running(source.export(spec("locked", ["a"]))) as exporting,
    ):
        await eventually(plain, f"EXISTS (SELECT {WAITING_FOR_LOCK} AND clock_timestamp() - query_start > '300 ms')")
        await unlock()
        assert_conforms(await exporting, b"a\n1\n")


WAITING_FOR_LOCK = f"FROM {OTHERS} AND wait_event_type = 'Lock'"
ASLEEP = f"FROM {OTHERS} AND wait_event = 'PgSleep'"


@asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Locks a table until the function that it yields is called, or the context ends."""
    async with connected(url) as connection:
        await connection.execute(f"BEGIN; LOCK TABLE {table}")
        yield partial(connection.execute, "ROLLBACK")


@every_cursor
@pytest.mark.parametrize("ends", ["well", "by its sink"])
async def test_no_setting_of_an_export_stays_in_the_pool(hostile: str, choice: CursorChoice, ends: str) -> None:
    async with opened(hostile, choice, "sensitive") as source:
        before = await settings_in(source.pool)
        sink = SinkAt(1 if ends == "by its sink" else 1_000_000, stop)
        with suppress(Stop):
            await source.drain(spec("sensitive", list(source.catalog["sensitive"].columns)), sink.take)
        assert len(sink.received.chunks) > 1
        assert await settings_in(source.pool) == before


async def settings_in(pool: Pool) -> list[dict[str, str]]:
    """Every setting of every connection of the pool."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(pool.acquire()) for _ in range(POOL_SIZE)]
        return [dict(await each.fetch("SELECT name, setting FROM pg_settings")) for each in connections]


class Stop(Exception):
    """The failure of a sink in a test."""


async def stop() -> None:
    raise Stop


READ_AS_IT_SHOULD_BE = """
    RETURN current_setting('transaction_isolation') = 'repeatable read'
       AND current_setting('transaction_read_only') = 'on'
"""


@every_cursor
async def test_every_row_is_read_in_a_transaction_that_is_repeatable_read_and_read_only(
    database: str, plain: Plain, role: str, choice: CursorChoice
) -> None:
    await plain.execute(acting(READ_AS_IT_SHOULD_BE))
    async with opened(entered_as(database, role), choice, "acting") as source:
        assert_conforms(await source.export(ACTING), numbers(1500))


@cursors_of_views
async def test_a_view_that_writes_is_refused_and_writes_nothing(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("""
        CREATE TABLE written (n integer);
        CREATE FUNCTION write() RETURNS integer LANGUAGE sql AS 'INSERT INTO written VALUES (1) RETURNING n';
        CREATE VIEW writing AS SELECT write() AS n;
    """)
    async with opened(database, choice, "writing") as source:
        with pytest.raises(ExportFailure, match=r"^PostgreSQL: cannot execute INSERT in a read-only transaction$"):
            await source.export(spec("writing", ["n"]))
    assert await plain.fetchval("SELECT count(*) FROM written") == 0


@every_cursor
async def test_a_policy_that_writes_is_refused_and_writes_nothing(
    database: str, plain: Plain, role: str, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE written (n integer); GRANT INSERT ON written TO PUBLIC")
    await plain.execute(acting("INSERT INTO written VALUES (n)"))
    async with opened(entered_as(database, role), choice, "acting") as source:
        with pytest.raises(ExportFailure, match=r"^PostgreSQL: cannot execute INSERT in a read-only transaction$"):
            await source.export(ACTING)
    assert await plain.fetchval("SELECT count(*) FROM written") == 0


MANY = "CREATE UNLOGGED TABLE many AS SELECT n, repeat(chr(97 + n % 26), 200) AS words FROM generate_series(1, 30000) n"


@every_cursor
@pytest.mark.parametrize("chunk", [0, 1, 2])
async def test_rows_changed_during_an_export_do_not_show(
    database: str, plain: Plain, choice: CursorChoice, chunk: int
) -> None:
    await plain.execute(MANY)
    expected = await copied(plain, "SELECT * FROM many")

    async def change() -> None:
        await plain.execute("DELETE FROM many WHERE n % 3 = 0; UPDATE many SET n = -n, words = 'changed'")
        await plain.execute("INSERT INTO many SELECT n, 'new' FROM generate_series(1, 5000) n")

    async with opened(database, choice, "many") as source:
        sink = SinkAt(chunk, change)
        sink.received.total = await source.drain(spec("many", ["n", "words"]), sink.take)
        assert_conforms(sink.received, expected)
        changed = await copied(plain, "SELECT * FROM many")
        assert changed != expected
        assert_conforms(await source.export(spec("many", ["n", "words"])), changed)


@every_cursor
async def test_an_opened_export_has_its_snapshot_time_its_header_and_an_estimate(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute(MANY)
    await plain.execute("ANALYZE many")
    before = datetime.now(UTC)
    async with opened(database, choice, "many") as source, source.source.open(spec("many", ["words", "n"])) as rows:
        assert before - timedelta(minutes=1) < rows.snapshot_at < datetime.now(UTC) + timedelta(minutes=1)
        assert rows.expected == 30000
        assert rows.prologue == b"words,n\n"


@every_cursor
async def test_concurrent_exports_on_one_pool_are_complete(database: str, plain: Plain, choice: CursorChoice) -> None:
    await plain.execute(MANY)
    expected = await copied(plain, "SELECT * FROM many")
    async with opened(database, choice, "many", leaders=POOL_SIZE) as source:
        many = [source.export(spec("many", ["n", "words"])) for _ in range(2 * POOL_SIZE)]
        for exported in await asyncio.gather(*many):
            assert_conforms(exported, expected)
        await assert_recovered(source, plain)


@every_cursor
async def test_concurrent_exports_that_share_spare_connections_are_complete(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    """As the queue runs exports: each has a connection of its own."""
    await plain.execute(MANY)
    expected = await copied(plain, "SELECT * FROM many")
    turns = asyncio.Semaphore(POOL_SIZE // 2)
    async with opened(database, choice, "many", leaders=POOL_SIZE // 2) as source:

        async def in_turn() -> Received:
            async with turns:
                return await source.export(spec("many", ["n", "words"]))

        for exported in await asyncio.gather(*(in_turn() for _ in range(2 * POOL_SIZE))):
            assert_conforms(exported, expected)
        await assert_recovered(source, plain)


@every_cursor
async def test_a_column_of_another_type_since_the_last_export_is_written(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE changing AS SELECT 1 AS a")
    async with opened(database, choice, "changing") as source:
        assert_conforms(await source.export(spec("changing", ["a"])), b"a\n1\n")
        await plain.execute("ALTER TABLE changing ALTER a TYPE date USING date '2024-02-29'")
        assert_conforms(await source.export(spec("changing", ["a"])), b"a\n2024-02-29\n")


RELATIONS_TO_CHOOSE_FOR = """
    CREATE TABLE small AS SELECT 1 AS n, 'x' AS words;
    CREATE VIEW seen AS SELECT * FROM many;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM many;
    CREATE TABLE parted (n integer, words text) PARTITION BY RANGE (n);
    CREATE TABLE low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (15000);
    CREATE TABLE high PARTITION OF parted FOR VALUES FROM (15000) TO (MAXVALUE);
    INSERT INTO parted SELECT * FROM many;
    CREATE INDEX ON many (n);
    ANALYZE many, kept, parted;
"""
FIVE = Condition(column="n", operator=Operator.EQ, values=("5",))


@pytest.mark.parametrize(
    ("name", "conditions", "cursor"),
    [
        ("small", (), CopyCursor),
        ("seen", (), CopyCursor),
        ("many", (FIVE,), CopyCursor),
        ("many", (), BlockCursor),
        ("kept", (), BlockCursor),
        ("kept", (FIVE,), BlockCursor),
        ("parted", (), BlockCursor),
    ],
)
async def test_auto_reads_blocks_of_a_large_table_unless_an_index_serves_the_filter(
    database: str, plain: Plain, name: str, conditions: tuple[Condition, ...], cursor: type
) -> None:
    await plain.execute(MANY)
    await plain.execute(RELATIONS_TO_CHOOSE_FOR)
    where = " WHERE n = 5" if conditions else ""
    async with opened(database, CursorChoice.AUTO, name) as source:
        async with source.source.open(spec(name, ["n", "words"], *conditions)) as rows:
            assert type(rows.cursor) is cursor
        exported = await source.export(spec(name, ["n", "words"], *conditions))
        assert_conforms(exported, await copied(plain, f"SELECT n, words FROM {name}{where}"))


async def test_auto_uses_copy_without_workers(database: str, plain: Plain) -> None:
    async with opened(database, CursorChoice.AUTO, "kept.vast") as source:
        alone = Source(Connections(source.pool, leaders=POOL_SIZE, workers=0), source.catalog, source.choice)
        async with alone.open(VAST) as rows:
            assert type(rows.cursor) is CopyCursor


async def test_blocks_of_a_view_are_refused_with_its_name(database: str, plain: Plain) -> None:
    await plain.execute("CREATE VIEW a_view AS SELECT * FROM kept.fine")
    async with opened(database, CursorChoice.BLOCKS, "a_view") as source:
        with pytest.raises(ExportFailure, match=r"^EXPORT_METHOD=blocks [^\n]*'a_view'[^\n]*$"):
            async with source.source.open(spec("a_view", ["n"])):
                pytest.fail("it was opened")
        await assert_recovered(source, plain)


# Filters


VALUES = [
    "plain", "", " ", "'", "''", '"', "\\", "\\\\", "\\'", "'\\", "\\' OR 1=1 --", "' OR '1'='1", "$1", "$2", "$$",
    "%s", "{}", "'; DROP TABLE users; --", "\\'; DROP TABLE users; --", "E'\\''", "U&'\\0041'", "\\x41", "\\.", "NULL",
    "null", "line\nfeed", "carriage\r\nreturn", "tab\t", "\x01", "ünïcödé", "北京", "\U0001f600", "a,b", ";", "*/",
    "/*", "--", "?", ":a",
]  # fmt: skip


@pytest.fixture
async def notes(database: str, plain: Plain) -> str:
    """The URL of a database that reads backslashes as escapes, with a table of VALUES by their places."""
    await plain.execute("CREATE TABLE users (id integer)")
    await plain.execute('CREATE TABLE notes (id integer, words text COLLATE "C", short varchar(40), "$1" text)')
    rows = [(place, value, value, value) for place, value in enumerate(VALUES)]
    await plain.executemany("INSERT INTO notes VALUES ($1, $2, $3, $4)", rows)
    await set_default(plain, "standard_conforming_strings", "off")
    await set_default(plain, "backslash_quote", "on")
    return database


def ids(*places: int) -> bytes:
    return b"".join([b"id\n", *(b"%d\n" % place for place in places)])


@every_cursor
@pytest.mark.parametrize("column", ["words", "short", "$1"])
async def test_a_hostile_value_is_only_compared(notes: str, plain: Plain, choice: CursorChoice, column: str) -> None:
    async with opened(notes, choice, "notes") as source:
        for place, value in enumerate(VALUES):
            condition = Condition(column=column, operator=Operator.EQ, values=(value,))
            assert_conforms(await source.export(spec("notes", ["id"], condition)), ids(place))
    assert await plain.fetchval("SELECT to_regclass('users') IS NOT NULL")


@every_cursor
async def test_hostile_values_together_are_only_compared(notes: str, choice: CursorChoice) -> None:
    absent = Condition(column="words", operator=Operator.EQ, values=("absent'", "$1 "))
    every = Condition(column="words", operator=Operator.EQ, values=(*VALUES[::-1], "absent"))
    some = Condition(column="$1", operator=Operator.EQ, values=("$1", "\\' OR 1=1 --", "' OR '1'='1"))
    async with opened(notes, choice, "notes") as source:
        assert_conforms(await source.export(spec("notes", ["id"], absent)), ids())
        assert_conforms(await source.export(spec("notes", ["id"], every)), ids(*range(len(VALUES))))
        expected = ids(*(place for place, value in enumerate(VALUES) if value in some.values))
        assert_conforms(await source.export(spec("notes", ["id"], every, some)), expected)


ORDERS = {Operator.GTE: ge, Operator.GT: gt, Operator.LTE: le, Operator.LT: lt}


@every_cursor
@pytest.mark.parametrize("operator", ORDERS)
async def test_a_hostile_value_is_only_a_bound(notes: str, choice: CursorChoice, operator: Operator) -> None:
    async with opened(notes, choice, "notes") as source:
        for bound in VALUES:
            condition = Condition(column="words", operator=operator, values=(bound,))
            within = [place for place, value in enumerate(VALUES) if ORDERS[operator](value.encode(), bound.encode())]
            assert_conforms(await source.export(spec("notes", ["id"], condition)), ids(*within))


@every_cursor
async def test_a_value_outside_of_a_domain_is_only_compared(database: str, plain: Plain, choice: CursorChoice) -> None:
    await plain.execute("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)")
    await plain.execute("CREATE TABLE counted (id integer, n positive); INSERT INTO counted VALUES (1, 5), (2, NULL)")
    async with opened(database, choice, "counted") as source:
        for values, expected in [(("-1", "5"), ids(1)), (("-1",), ids())]:
            condition = Condition(column="n", operator=Operator.EQ, values=values)
            assert_conforms(await source.export(spec("counted", ["id"], condition)), expected)


# Failures


async def assert_recovered(source: Opened, plain: Plain) -> None:
    """Checks that nothing of the export is left in the server, and that all connections of the source work."""
    await assert_nothing_runs(plain)
    await assert_all_usable(source.pool)
    assert_all_granted(source)
    again = Opened(source.pool, await read_catalog(source.pool, ["kept.fine"]), source.choice, source.leaders)
    assert_conforms(await again.export(FINE), numbers(1500))


@every_cursor
@pytest.mark.parametrize("row", [1, 2, 700, 20_000])
async def test_an_error_at_a_row_fails_the_export_with_the_reason_of_the_database(
    database: str, plain: Plain, role: str, choice: CursorChoice, row: int
) -> None:
    await plain.execute(acting(f"PERFORM 1 / ({row} - n)", rows=20_000))
    async with opened(entered_as(database, role), choice, "acting") as source:
        received = Received()
        with pytest.raises(ExportFailure, match=r"^PostgreSQL: division by zero$"):
            await source.drain(ACTING, received.take)
        assert sum(rows for _, rows in received.chunks) < row
        await assert_recovered(source, plain)


@cursors_of_views
@pytest.mark.parametrize("row", [1, 2, 700, 20_000])
async def test_an_error_at_a_row_of_a_view_fails_the_export_with_the_reason_of_the_database(
    database: str, plain: Plain, choice: CursorChoice, row: int
) -> None:
    await plain.execute(f"CREATE VIEW failing AS SELECT 1 / ({row} - n) AS n FROM generate_series(1, 20000) n")
    async with opened(database, choice, "failing") as source:
        received = Received()
        with pytest.raises(ExportFailure, match=r"^PostgreSQL: division by zero$"):
            await source.drain(spec("failing", ["n"]), received.take)
        assert sum(rows for _, rows in received.chunks) < row
        await assert_recovered(source, plain)


@every_cursor
async def test_an_error_message_of_several_lines_is_reported_without_its_context(
    database: str, plain: Plain, role: str, choice: CursorChoice
) -> None:
    await plain.execute(acting("RAISE 'not today' USING DETAIL = 'a detail', HINT = 'a hint'"))
    async with opened(entered_as(database, role), choice, "acting") as source:
        with pytest.raises(ExportFailure, match=r"^PostgreSQL: not today$"):
            await source.export(ACTING)
        await assert_recovered(source, plain)


@every_cursor
async def test_a_role_without_select_is_refused_before_the_first_byte(
    database: str, plain: Plain, role: str, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE secrets AS SELECT 1 AS a")
    async with opened(entered_as(database, role), choice, "secrets") as source:
        with pytest.raises(ExportFailure, match=r"^PostgreSQL: permission denied for table secrets$"):
            async with source.source.open(spec("secrets", ["a"])):
                pytest.fail("it was opened")
        await assert_nothing_runs(plain)
        await assert_all_usable(source.pool)
        await plain.execute(f"GRANT SELECT ON secrets TO {role}")
        assert_conforms(await source.export(spec("secrets", ["a"])), b"a\n1\n")


@every_cursor
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DROP TABLE changing", '^PostgreSQL: relation "public.changing" does not exist$'),
        ("ALTER TABLE changing DROP a", "^the column 'a' of the dataset 'changing' is no longer offered$"),
        ("ALTER TABLE changing ALTER a TYPE int USING 1", "^PostgreSQL: invalid input syntax for type integer: "),
    ],
)
async def test_a_table_that_has_changed_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice, change: str, reason: str
) -> None:
    await plain.execute("CREATE TABLE changing (a text, b text)")
    condition = Condition(column="a", operator=Operator.EQ, values=("x",))
    async with opened(database, choice, "changing") as source:
        await plain.execute(change)
        with pytest.raises(ExportFailure, match=reason):
            await source.export(spec("changing", ["a"], condition))
        await assert_recovered(source, plain)


@every_cursor
async def test_an_unpopulated_materialized_view_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE MATERIALIZED VIEW hollow AS SELECT 1 AS a WITH NO DATA")
    async with opened(database, choice, "hollow") as source:
        with pytest.raises(ExportFailure, match="hollow"):
            await source.export(spec("hollow", ["a"]))
        await assert_recovered(source, plain)


async def test_a_dataset_that_is_not_in_the_catalog_fails_the_export(database: str) -> None:
    async with opened(database, CursorChoice.AUTO) as source:
        with pytest.raises(ExportFailure, match=r"^the dataset 'users' is no longer offered$"):
            await source.export(spec("users", ["id"]))


async def terminate_others(plain: Plain) -> None:
    """Returns when the sessions are gone. In two steps: the planner may ask `pg_terminate_backend` before the rest."""
    pids = await plain.fetchval(f"SELECT coalesce(array_agg(pid), '{{}}') FROM {OTHERS}")
    await plain.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)
    await eventually(plain, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY ($1))", pids)


@every_cursor
@pytest.mark.parametrize("chunk", [0, 1, 2, 5])
async def test_a_session_terminated_between_chunks_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice, chunk: int
) -> None:
    async with opened(database, choice, "kept.vast") as source:
        sink = SinkAt(chunk, lambda: terminate_others(plain))
        async with asyncio.timeout(WAIT):
            with pytest.raises(ExportFailure, match=r"^[^\n]*(connection|terminat)[^\n]*$"):
                await source.drain(VAST, sink.take)
        assert len(sink.received.chunks) > chunk
        await assert_recovered(source, plain)


@every_cursor
async def test_a_connection_that_is_known_to_be_lost_before_the_first_row_fails_the_export(
    database: str, choice: CursorChoice
) -> None:
    async with opened(database, choice, "kept.vast") as source, source.source.open(VAST) as rows:
        source.pool.terminate()
        with pytest.raises(ExportFailure, match=r"^the connection to the database was lost$"):
            await rows.drain(Received().take)


@every_cursor
async def test_a_session_whose_termination_message_precedes_its_close_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    """The message about the termination has arrived; the end of the connection has not."""
    async with lingering(database) as (url, ends), opened(url, choice, "kept.vast") as source:
        sink = SinkAt(0, lambda: terminate_others(plain))
        async with running(source.drain(VAST, sink.take)) as exporting:
            await asyncio.wait({exporting}, timeout=1)
            ends.set()  # it may have asked before it heard
            await asyncio.wait({exporting}, timeout=WAIT)
            assert isinstance(exporting.exception(), ExportFailure)
        await assert_recovered(source, plain)


@asynccontextmanager
async def lingering(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A relay that passes data on at once, and the end of a connection only after the event."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    ends = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        await ends.wait()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if folder:
            answers, requests = await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{parts.port or 5432}")
        else:
            answers, requests = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        try:
            await asyncio.gather(pump(reader, requests), pump(answers, writer))
        finally:
            for end in (requests, writer):
                end.transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        user, at, _ = parts.netloc.rpartition("@")
        yield urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}", query="")), ends


RANGE_ROWS = 7 * FIRST_BLOCKS  # of `acting` in each of the first ranges of a BlockCursor
SILENT = sleeping(600, *(number * RANGE_ROWS + 400 for number in range(3)))


async def until_silent(plain: Plain, choice: CursorChoice) -> None:
    """Returns when the server computes on every connection of an export of SILENT rows."""
    readers = 1 + WORKERS if choice is CursorChoice.BLOCKS else 1
    await eventually(plain, f"{readers} = (SELECT count(*) {ASLEEP})")


@every_cursor
async def test_a_session_terminated_while_the_server_computes_fails_the_export(
    database: str, plain: Plain, role: str, choice: CursorChoice
) -> None:
    await plain.execute(acting(SILENT))
    async with opened(entered_as(database, role), choice, "acting") as source:
        async with running(source.export(ACTING)) as exporting:
            await until_silent(plain, choice)
            await terminate_others(plain)
            with pytest.raises(ExportFailure, match=r"^[^\n]*(connection|terminat)[^\n]*$"):
                await asyncio.wait_for(exporting, WAIT)
        await assert_recovered(source, plain)


async def test_sessions_terminated_while_only_workers_read_fail_the_export_as_a_lost_connection(
    database: str, plain: Plain, role: str
) -> None:
    """The leader has no range left, so it does not notice that its session has ended."""
    at_leader, of_workers = f"n <= {RANGE_ROWS}", sleeping(600, RANGE_ROWS + 1, 2 * RANGE_ROWS + 1)
    await plain.execute(acting(f"IF {at_leader} THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; {of_workers}"))
    async with (
        connected(database) as gate,
        opened(entered_as(database, role), CursorChoice.BLOCKS, "acting") as source,
    ):
        await gate.execute("SELECT pg_advisory_lock(1)")
        async with running(source.export(ACTING)) as exporting:
            await eventually(plain, f"{WORKERS} = (SELECT count(*) {ASLEEP})")
            await gate.execute("SELECT pg_advisory_unlock(1)")
            last_range = f"query LIKE '%({3 * FIRST_BLOCKS},0)%'"
            await eventually(plain, f"EXISTS (SELECT FROM {OTHERS} AND state = 'idle in transaction' AND {last_range})")
            await terminate_others(plain)
            with pytest.raises(ExportFailure, match=r"^[^\n]*(connection|terminat)[^\n]*$"):
                await asyncio.wait_for(exporting, WAIT)
        await assert_recovered(source, plain)


@every_cursor
async def test_exports_on_connections_lost_in_the_pool_fail_and_later_ones_succeed(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE few AS SELECT 1 AS n")
    async with opened(database, choice, "few") as source:
        await assert_all_usable(source.pool)
        await terminate_others(plain)
        exported: Received | None = None
        async with asyncio.timeout(WAIT):
            while exported is None:
                with suppress(ExportFailure):
                    exported = await source.export(spec("few", ["n"]))
        assert_conforms(exported, b"n\n1\n")
        await assert_nothing_runs(plain)


@every_cursor
async def test_a_query_cancelled_in_the_server_fails_the_export(
    database: str, plain: Plain, role: str, choice: CursorChoice
) -> None:
    await plain.execute(acting(SILENT))
    async with opened(entered_as(database, role), choice, "acting") as source:
        async with running(source.export(ACTING)) as exporting:
            await until_silent(plain, choice)
            assert await plain.fetchval(f"SELECT pg_cancel_backend((SELECT max(pid) {ASLEEP}))")
            with pytest.raises(ExportFailure, match=r"^PostgreSQL: canceling statement due to user request$"):
                await asyncio.wait_for(exporting, WAIT)
        await assert_recovered(source, plain)


# Ends of an export on this side


@every_cursor
@pytest.mark.parametrize("chunk", [0, 1, 2, 5])
async def test_an_exception_of_the_sink_is_raised_and_ends_the_query(
    database: str, plain: Plain, choice: CursorChoice, chunk: int
) -> None:
    async with opened(database, choice, "kept.vast") as source:
        sink = SinkAt(chunk, stop)
        with pytest.raises(Stop):
            await source.drain(VAST, sink.take)
        assert len(sink.received.chunks) == chunk + 1
        await assert_recovered(source, plain)


@every_cursor
async def test_an_oserror_of_the_sink_is_not_an_error_of_the_database(
    database: str, plain: Plain, choice: CursorChoice
) -> None:

    async def fill_disk() -> None:
        raise OSError(28, "No space left on device")

    async with opened(database, choice, "kept.vast") as source:
        with pytest.raises(OSError, match="No space left"):
            await source.drain(VAST, SinkAt(1, fill_disk).take)


async def test_a_sink_that_has_failed_is_not_called_again(database: str, plain: Plain, role: str) -> None:
    """The sink fails at a range that was held, while another connection has finished a later one."""
    gates = f"CASE WHEN n <= {RANGE_ROWS} THEN 1 WHEN n > {3 * RANGE_ROWS} THEN 2 ELSE 3 END"
    await plain.execute(acting(f"PERFORM pg_advisory_xact_lock_shared({gates})"))
    received, failed_at, later = Received(), 0, asyncio.Event()

    class TellingWhenFailing(ReorderBuffer):
        async def finish(self, block_range: BlockRange) -> None:
            if failed_at:
                later.set()
            await super().finish(block_range)

    reading = BlockReading(buffer=TellingWhenFailing)
    async with (
        connected(database) as gate,
        opened(entered_as(database, role), CursorChoice.BLOCKS, "acting", reading=reading) as source,
    ):

        async def fail_at_second_range(chunk: bytes | bytearray, rows: int) -> None:
            nonlocal failed_at
            await received.take(chunk, rows)
            if not failed_at and sum(rows for _, rows in received.chunks) > RANGE_ROWS:
                failed_at = len(received.chunks)
                await gate.execute("SELECT pg_advisory_unlock(2)")
                await asyncio.wait_for(later.wait(), WAIT)
                await stop()

        await gate.execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
        async with running(source.drain(ACTING, fail_at_second_range)) as exporting:
            await eventually(plain, f"2 = (SELECT count(*) {WAITING_FOR_LOCK})")
            await gate.execute("SELECT pg_advisory_unlock(1)")
            with pytest.raises(Stop):
                await asyncio.wait_for(exporting, WAIT)
        await assert_recovered(source, plain)
    assert len(received.chunks) == failed_at


@every_cursor
@pytest.mark.parametrize("ending", ["exception", "cancellation"])
async def test_an_export_that_ends_at_its_last_range_is_cleaned_up_at_once(
    database: str, plain: Plain, choice: CursorChoice, ending: str
) -> None:
    """asyncpg then waits for an answer to its CancelRequest that never comes, until the clean-up timeout."""
    await plain.execute("CREATE TABLE few AS SELECT 1 AS n")
    async with opened(database, choice, "few", clean_up_timeout=0.25) as source:

        async def cancel() -> None:
            exporting.cancel()
            await asyncio.sleep(0)

        sink = SinkAt(1, stop if ending == "exception" else cancel)
        async with running(source.drain(spec("few", ["n"]), sink.take)) as exporting:
            await asyncio.wait({exporting}, timeout=WAIT)
            assert exporting.done(), "it is stuck"
            assert exporting.cancelled() if ending == "cancellation" else isinstance(exporting.exception(), Stop)
        await assert_recovered(source, plain)


@every_cursor
async def test_an_export_cancelled_again_during_cleanup_returns_its_connection(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE few AS SELECT 1 AS n")
    async with opened(database, choice, "few") as source:

        async def cancel() -> None:
            exporting.cancel()
            await asyncio.sleep(0)

        async with running(source.drain(spec("few", ["n"]), SinkAt(1, cancel).take)) as exporting:
            await asyncio.wait({exporting}, timeout=0.1)
            exporting.cancel()
            await assert_cancelled(exporting)
        await assert_recovered(source, plain)


async def assert_cancelled(task: "asyncio.Task[Any]") -> None:
    """A cancelled task ends soon, and as cancelled."""
    await asyncio.wait({task}, timeout=WAIT)
    assert task.done(), f"it has not ended within {WAIT:g} s"
    if not task.cancelled():
        pytest.fail(f"it ended as if it had not been cancelled: {task.exception()!r}")


@every_cursor
@pytest.mark.parametrize("chunk", [0, 1, 2, 5])
async def test_an_export_cancelled_in_its_sink_leaves_no_query(
    database: str, plain: Plain, choice: CursorChoice, chunk: int
) -> None:
    arrived, never = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        arrived.set()
        await never.wait()

    async with opened(database, choice, "kept.vast") as source:
        async with running(source.drain(VAST, SinkAt(chunk, wait).take)) as exporting:
            await asyncio.wait_for(arrived.wait(), WAIT)
            exporting.cancel()
            await assert_cancelled(exporting)
        await assert_recovered(source, plain)


@every_cursor
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_an_export_cancelled_while_the_server_sends_nothing_leaves_no_query(
    database: str, plain: Plain, role: str, choice: CursorChoice, times: int
) -> None:
    await plain.execute(acting(SILENT))
    async with opened(entered_as(database, role), choice, "acting") as source:
        async with running(source.export(ACTING)) as exporting:
            await until_silent(plain, choice)
            for _ in range(times):
                exporting.cancel()
                await asyncio.sleep(0)
            await assert_cancelled(exporting)
        await assert_recovered(source, plain)


async def cancel_at_wake_up(task: "asyncio.Task[Any]", number: int, since: Callable[[], object] = lambda: True) -> None:
    """Cancels the task when its future is done and it has not continued yet, for the number-th time.

    The futures of tasks that it has started count, too.
    """
    others = asyncio.all_tasks() - {task}
    seen: dict[asyncio.Task[Any], object] = {}
    while not task.done():
        for each in asyncio.all_tasks() - others:
            awaited = getattr(each, "_fut_waiter", None)
            if since() and awaited is not None and awaited.done() and awaited is not seen.get(each):
                seen[each], number = awaited, number - 1
                if not number:
                    task.cancel()
                    return
        time.sleep(0)  # noqa: ASYNC251 - lets go of the interpreter, for the thread that the task may be waiting for
        await asyncio.sleep(0)


@every_cursor
async def test_an_export_cancelled_as_it_wakes_up_ends_as_cancelled(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    """A result that has arrived and a cancellation may meet at every step; asyncpg then asks for no cancellation."""
    async with opened(database, choice, "kept.vast") as source:
        for step in range(1, 17):
            async with running(source.export(VAST)) as exporting:
                await asyncio.wait_for(cancel_at_wake_up(exporting, step), WAIT)
                await assert_cancelled(exporting)
            await assert_recovered(source, plain)


@every_cursor
@pytest.mark.parametrize("chunks", [1, 2])
async def test_an_export_cancelled_as_it_wakes_up_leaves_no_query_in_a_silent_server(
    database: str, plain: Plain, role: str, choice: CursorChoice, chunks: int
) -> None:
    """The server has sent a chunk and sends nothing after it: it does not notice that the client is gone."""
    await plain.execute(acting(sleeping(600, 1300)))
    async with opened(entered_as(database, role), choice, "acting") as source:
        taken = Received()
        async with running(source.drain(ACTING, taken.take)) as exporting:
            await asyncio.wait_for(cancel_at_wake_up(exporting, 1, since=lambda: len(taken.chunks) >= chunks), WAIT)
            await assert_cancelled(exporting)
        await assert_recovered(source, plain)


@every_cursor
async def test_an_export_cancelled_while_it_waits_for_a_lock_leaves_no_query(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    async with opened(database, choice, "kept.vast") as source:
        async with locked(database, "kept.vast"), running(source.export(VAST)) as exporting:
            await eventually(plain, f"EXISTS (SELECT {WAITING_FOR_LOCK})")
            exporting.cancel()
            await assert_cancelled(exporting)
        await assert_recovered(source, plain)


@every_cursor
async def test_an_export_that_is_opened_and_not_drained_leaves_nothing(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    async with opened(database, choice, "kept.vast") as source:
        with pytest.raises(Stop):
            async with source.source.open(VAST):
                raise Stop
        await assert_recovered(source, plain)


# The catalog


RELATIONS = """
    CREATE SCHEMA other;
    CREATE SCHEMA "Odd. ""Schema";
    CREATE TABLE plain (id integer PRIMARY KEY, word text);
    CREATE TABLE other.plain (other_id integer);
    CREATE TABLE other.elsewhere (id integer);
    CREATE TABLE "Mixed Case" (id integer);
    CREATE TABLE "Odd. ""Schema"."Odd, ""Table" (id integer);
    CREATE TABLE mixedcase (id integer);
    CREATE VIEW a_view AS SELECT * FROM plain;
    CREATE MATERIALIZED VIEW a_materialized_view AS SELECT * FROM plain;
    CREATE TABLE parted (id integer) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE INDEX an_index ON plain (word);
    CREATE INDEX a_partitioned_index ON parted (id);
    CREATE SEQUENCE a_sequence;
    CREATE TYPE a_type AS (id integer);
    CREATE FOREIGN DATA WRAPPER nothing;
    CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
    CREATE FOREIGN TABLE a_foreign_table (id integer) SERVER nowhere;
"""
FOUND = {
    "plain": ("public", "plain", ["id", "word"]),
    "PLAIN": ("public", "plain", ["id", "word"]),
    '"plain"': ("public", "plain", ["id", "word"]),
    "public.plain": ("public", "plain", ["id", "word"]),
    " public . plain ": ("public", "plain", ["id", "word"]),
    "other.plain": ("other", "plain", ["other_id"]),
    'other."plain"': ("other", "plain", ["other_id"]),
    '"Mixed Case"': ("public", "Mixed Case", ["id"]),
    "MixedCase": ("public", "mixedcase", ["id"]),
    '"Odd. ""Schema"."Odd, ""Table"': ('Odd. "Schema', 'Odd, "Table', ["id"]),
    "a_view": ("public", "a_view", ["id", "word"]),
    "a_materialized_view": ("public", "a_materialized_view", ["id", "word"]),
    "parted": ("public", "parted", ["id"]),
    "part": ("public", "part", ["id"]),
    "a_foreign_table": ("public", "a_foreign_table", ["id"]),
}
REFUSED = [
    "absent", "elsewhere", "nowhere.plain", "other.absent", '"PLAIN"', "Mixed Case", "an_index", "plain_pkey",
    "a_partitioned_index", "a_sequence", "a_type", "", " ", ".", "plain.", ".plain", '"plain', 'plain"', '""',
    "plain; SELECT 1", "plain, part", "'plain'", "$1", "1", "16384", "plain -- x", "a.b.c", "a.b.c.d",
    "elsewhere.public.plain", "plain\\", "é" * 100,
]  # fmt: skip


@pytest.fixture(scope="module")
def relations(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(run_sql(url, RELATIONS))
        yield url


async def test_relations_of_every_kind_are_found_by_name(relations: str) -> None:
    async with pooled(relations) as pool:
        catalog = await read_catalog(pool, list(FOUND))
    assert list(catalog) == list(FOUND)
    for name, expected in FOUND.items():
        dataset = catalog[name]
        assert dataset.name == name
        assert (dataset.schema, dataset.relation, list(dataset.columns)) == expected
    assert "absent" not in catalog


@pytest.mark.parametrize("name", REFUSED)
async def test_a_name_without_a_table_or_view_is_refused_in_one_line(relations: str, name: str) -> None:
    async with pooled(relations, size=1) as pool:
        with pytest.raises(StartError, match=r"^DATASETS: ") as refused:
            await read_catalog(pool, ["plain", name])
        assert repr(name) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
        assert list(await read_catalog(pool, ["plain"])) == ["plain"]


@pytest.mark.parametrize("name", ['"a\nb".c.d.e', 'a."b\r\nc".d'])
async def test_a_name_of_two_lines_is_refused_in_one_line(relations: str, name: str) -> None:
    async with pooled(relations, size=1) as pool:
        with pytest.raises(StartError, match=r"^DATASETS: ") as refused:
            await read_catalog(pool, [name])
        assert len(str(refused.value).splitlines()) == 1


async def test_a_schema_without_usage_privilege_is_refused_in_one_line(database: str, plain: Plain, role: str) -> None:
    await plain.execute("CREATE SCHEMA closed; CREATE TABLE closed.secrets (id integer)")
    async with pooled(entered_as(database, role)) as pool:
        with pytest.raises(StartError, match=r"^DATASETS: 'closed.secrets' [^\n]*permission denied for schema closed$"):
            await read_catalog(pool, ["closed.secrets"])


FACTS = """
    CREATE DOMAIN word AS varchar(30);
    CREATE DOMAIN letters AS text CHECK (VALUE ~ '^[a-z]*$');
    CREATE DOMAIN code AS char(3);
    CREATE DOMAIN price AS numeric(8, 2);
    CREATE TYPE mood AS ENUM ('ok');
    CREATE SCHEMA kinds;
    CREATE TYPE kinds.pair AS (a integer);
    CREATE TABLE facts (
        a bigint, gone text, b varchar(255), c varchar, d char(2), e bpchar, f text, g numeric(10, 2), h numeric,
        i timestamptz, j timestamp(3), k date, l boolean, m uuid, n real, o double precision, p smallint, q integer,
        r word, s letters, t code, u price, v mood, w integer[], x kinds.pair, y "char", z name,
        "A ""b"" c" varchar(1), stored integer GENERATED ALWAYS AS (q * 2) STORED,
        own integer GENERATED ALWAYS AS IDENTITY
    );
    ALTER TABLE facts DROP gone, ADD later varchar(7);
"""
COLUMNS = [
    Column(name="a", declared="bigint", type="int8", length=None),
    Column(name="b", declared="character varying(255)", type="varchar", length=255),
    Column(name="c", declared="character varying", type="varchar", length=None),
    Column(name="d", declared="character(2)", type="bpchar", length=2),
    Column(name="e", declared="bpchar", type="bpchar", length=None),
    Column(name="f", declared="text", type="text", length=None),
    Column(name="g", declared="numeric(10,2)", type="numeric", length=None),
    Column(name="h", declared="numeric", type="numeric", length=None),
    Column(name="i", declared="timestamp with time zone", type="timestamptz", length=None),
    Column(name="j", declared="timestamp(3) without time zone", type="timestamp", length=None),
    Column(name="k", declared="date", type="date", length=None),
    Column(name="l", declared="boolean", type="bool", length=None),
    Column(name="m", declared="uuid", type="uuid", length=None),
    Column(name="n", declared="real", type="float4", length=None),
    Column(name="o", declared="double precision", type="float8", length=None),
    Column(name="p", declared="smallint", type="int2", length=None),
    Column(name="q", declared="integer", type="int4", length=None),
    Column(name="r", declared="word", type="varchar", length=30),
    Column(name="s", declared="letters", type="text", length=None),
    Column(name="t", declared="code", type="bpchar", length=3),
    Column(name="u", declared="price", type="numeric", length=None),
    Column(name="v", declared="mood", type="public.mood", length=None),
    Column(name="w", declared="integer[]", type="_int4", length=None),
    Column(name="x", declared="kinds.pair", type="kinds.pair", length=None),
    Column(name="y", declared='"char"', type="char", length=None),
    Column(name="z", declared="name", type="name", length=None),
    Column(name='A "b" c', declared="character varying(1)", type="varchar", length=1),
    Column(name="stored", declared="integer", type="int4", length=None),
    Column(name="own", declared="integer", type="int4", length=None),
    Column(name="later", declared="character varying(7)", type="varchar", length=7),
]


def as_declared(column: Column) -> Column:
    """Returns the column without the properties of the operators of its type."""
    return Column(name=column.name, declared=column.declared, type=column.type, length=column.length)


async def test_columns_have_their_types_and_lengths(database: str, plain: Plain) -> None:
    await plain.execute(FACTS)
    async with pooled(database) as pool:
        facts = (await read_catalog(pool, ["facts"]))["facts"]
    assert [as_declared(column) for column in facts.columns.values()] == COLUMNS
    assert list(facts.columns) == [column.name for column in COLUMNS]


async def test_a_domain_of_a_domain_is_read_as_its_base_type(database: str, plain: Plain) -> None:
    await plain.execute("CREATE DOMAIN word AS varchar(30); CREATE DOMAIN short AS word CHECK (length(VALUE) < 9)")
    await plain.execute("CREATE TABLE facts (a short)")
    async with pooled(database) as pool:
        facts = (await read_catalog(pool, ["facts"]))["facts"]
    assert as_declared(facts.columns["a"]) == Column(name="a", declared="short", type="varchar", length=30)


async def test_an_empty_list_of_names_gives_an_empty_catalog(database: str) -> None:
    async with pooled(database) as pool:
        assert len(await read_catalog(pool, [])) == 0


# Connecting


NAME = "SOURCE_DATABASE_URL"
SECRET = "hunter2"


async def refusal(url: str, wait: float, caplog: pytest.LogCaptureFixture) -> tuple[str, float]:
    """Returns the error line of `connect` and its duration in seconds; the password is in neither."""
    started = asyncio.get_running_loop().time()
    with pytest.raises(StartError) as refused:
        await connect(url, name=NAME, size=1, wait=wait)
    line = str(refused.value)
    assert line.startswith((f"{NAME}: ", f"{NAME} must "))
    assert len(line.splitlines()) == 1
    assert SECRET not in line
    assert SECRET not in caplog.text
    return line, asyncio.get_running_loop().time() - started


async def test_a_closed_port_ends_the_start_after_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    url = f"postgresql://someone:{SECRET}@127.0.0.1:{free_port()}/somewhere"
    line, seconds = await refusal(url, 0.6, caplog)
    address = url.rpartition("@")[2].removesuffix("/somewhere")
    assert line == f"{NAME}: {address} refused the connection; is PostgreSQL running there? (waited 0.6 s)"
    assert 0.6 <= seconds < WAIT / 2
    assert f"{NAME}: waiting for the database: " in caplog.text


async def test_a_server_that_never_answers_ends_the_start_after_the_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_port = silent.getsockname()[1]
        url = f"postgresql://someone:{SECRET}@127.0.0.1:{silent_port}/somewhere"
        line, seconds = await refusal(url, 0.5, caplog)
    assert line.startswith(f"{NAME}: 127.0.0.1:{silent_port} did not answer in time; check the host and the port")
    assert line.endswith(" (waited 0.5 s)")
    assert 0.5 <= seconds < WAIT / 2


async def test_a_database_that_does_not_exist_ends_the_start_at_once(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    line, seconds = await refusal(at_database(database, "no_such_database"), WAIT, caplog)
    sentence = f'{NAME}: database "no_such_database" does not exist; create it, or check the name'
    assert line.startswith(sentence)
    assert seconds < WAIT / 2
    assert not caplog.records


async def test_a_wrong_password_ends_the_start_at_once(
    database: str, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = entered_as(database, role, SECRET)
    try:
        async with connected(url):
            pytest.skip("this server asks for no password")
    except asyncpg.InvalidPasswordError:
        line, seconds = await refusal(url, WAIT, caplog)
    sentence = f'{NAME}: password authentication failed for user "{role}"; check the user and the password in {NAME}'
    assert line == sentence
    assert seconds < WAIT / 2
    assert not caplog.records


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://someone:{SECRET}@127.0.0.1/somewhere",
        f"postgresql://someone:{SECRET}@127.0.0.1:port/somewhere",
        f"postgresql://someone:{SECRET}@[::1/somewhere",
        f"postgresql://someone:{SECRET}@127.0.0.1/somewhere?sslmode=perhaps",
        f"someone:{SECRET}@127.0.0.1/somewhere",
        f"host=127.0.0.1 user=someone password={SECRET} dbname=somewhere",
        f"postgresql://someone:{SECRET}@127.0.0.1:70000/somewhere",
        f"postgresql://someone:{SECRET}/x@127.0.0.1/somewhere",
        f"postgresql://someone:{SECRET}#x@127.0.0.1/somewhere",
        f"postgresql://someone:x?{SECRET}@127.0.0.1/somewhere",
    ],
)
async def test_a_url_that_cannot_be_read_ends_the_start_at_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    _, seconds = await refusal(url, WAIT, caplog)
    assert seconds < WAIT / 2
    assert not caplog.records


async def test_a_database_that_starts_late_is_used(
    database: str, plain: Plain, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A role with a connection limit of 0 behaves like a server without free connections."""
    await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    async with running(connect(entered_as(database, role), name=NAME, size=1, wait=WAIT)) as connecting:
        await until(lambda: "waiting for the database: too many connections" in caplog.text, "it waits")
        assert not connecting.done()
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
        pool = await connecting
    assert await pool.fetchval("SELECT current_user::text") == role
    await pool.close()
    assert PASSWORD not in caplog.text


async def test_a_pool_has_at_most_its_size_of_connections_and_an_application_name(database: str, plain: Plain) -> None:
    async with pooled(database, size=2) as pool:
        names = await asyncio.gather(*(pool.fetchval("SELECT current_setting('application_name')") for _ in range(6)))
        assert set(names) == {"streamer"}
        assert 1 <= await plain.fetchval(f"SELECT count(*) FROM {OTHERS}") <= 2
