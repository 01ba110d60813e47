"""BlockCursor against a real PostgreSQL: its bytes are those of one COPY, under concurrent changes and failures.

The layout of a heap, partitions, inheritance and row policies change no byte; writes during an export are invisible; a
worker may lose its connection, and one that cannot reconnect fails the export; spare connections are reserved and
returned; an export leaves nothing behind. The reference is COPY of the same query on a plain connection. Tests for all
cursors are in test_cursors.py and test_source.py, the order of ranges in tests/unit/test_block_ranges.py.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.errors import ExportFailure
from streamer.model import Condition, ExportSpec, Operator
from streamer.source.catalog.introspection import read_catalog
from streamer.source.cursors import blocks
from streamer.source.cursors.block_ranges import BlockRange, RangeSplitter, ReorderBuffer
from streamer.source.cursors.blocks import SCAN_BLOCKS, BlockCursor, BlockReading
from streamer.source.cursors.copy import CopyCursor
from streamer.source.cursors.cursor import Sink
from streamer.source.query.query import Query
from streamer.source.session.connections import Connections
from streamer.source.session.snapshot import SnapshotGoneError, export_snapshot, open_snapshot
from streamer.source.source import CursorChoice, Source
from tests.conftest import connected, made_database
from tests.integration.sources import (
    OTHERS,
    WAIT,
    WORKERS,
    Opened,
    Plain,
    Received,
    SinkAt,
    assert_all_usable,
    assert_conforms,
    assert_nothing_runs,
    copied,
    entered_as,
    eventually,
    made_role,
    opened,
    plain_session,
    pooled,
    run_sql,
    running,
    spec,
)
from tests.polling import until
from tests.proxy import proxied

KB, MB = 1024, 1024 * 1024

# The sessions of an export: the transaction of the leader began first.
OURS = f"FROM {OTHERS} AND application_name = 'streamer' AND xact_start IS NOT NULL"
LEADER_SESSION = f"{OURS} ORDER BY xact_start LIMIT 1"
WORKER_SESSIONS = f"{OURS} AND xact_start > (SELECT min(xact_start) {OURS})"
WORKER_READS = f"EXISTS (SELECT {WORKER_SESSIONS} AND query LIKE 'COPY%')"
FULL = "query LIKE 'COPY%' AND (wait_event = 'ClientWrite' OR state = 'idle in transaction')"
"""The session has filled the sockets: its range is on a connection that is not read."""


WIDE = spec("kept.wide", ["n", "words"])
WIDE_RANGE = 3_615_360  # bytes of CSV in 64 blocks of it, about
MADE_WIDE = """
    CREATE TABLE kept.wide WITH (autovacuum_enabled = off) AS
    SELECT n, repeat(part, 9) AS words
    FROM generate_series(1, 3000) n,
    LATERAL (SELECT string_agg(md5(n || ',' || place), '') AS part FROM generate_series(1, 28) place) parts
"""
"""Few blocks and many bytes, because the values are compressed: a range is more than the sockets buffer."""

MIXED = spec("kept.mixed", ["n", "words"])
MADE_MIXED = r"""
    CREATE TABLE kept.mixed WITH (autovacuum_enabled = off) AS
    SELECT n, CASE WHEN n % 500 = 7 THEN repeat(E'",\n', 20000) WHEN n % 11 > 0 THEN repeat('x', n % 211) END AS words
    FROM generate_series(1, 6000) n
"""

NUMBERED = spec("kept.numbered", ["n", "rare", "seventh", "words"])
MADE_NUMBERED = """
    CREATE TABLE kept.numbered WITH (autovacuum_enabled = off) AS
    SELECT n, n % 1000 AS rare, n % 7 AS seventh, repeat(chr(97 + n % 26), 60) AS words
    FROM generate_series(1, 30000) n;
    CREATE INDEX ON kept.numbered (n); CREATE INDEX ON kept.numbered (rare); CREATE INDEX ON kept.numbered (seventh);
    ANALYZE kept.numbered
"""


@dataclass(frozen=True)
class Kept:
    """The URL of the tables that no test changes, and the large one as COPY prints it."""

    url: str
    wide: bytes


@pytest.fixture(scope="module")
def kept(postgres: str) -> Iterator[Kept]:
    async def copy_wide(url: str) -> bytes:
        async with plain_session(url) as plain:
            return await copied(plain, "SELECT n, words FROM kept.wide")

    with made_database(postgres) as url:
        asyncio.run(run_sql(url, "CREATE SCHEMA kept", MADE_WIDE, MADE_MIXED, MADE_NUMBERED))
        yield Kept(url, asyncio.run(copy_wide(url)))


@pytest.fixture
async def database(kept: Kept) -> str:
    """The URL of a database with only the tables in `kept`."""
    async with connected(kept.url) as connection:
        await terminate(connection, OURS)
        await connection.execute("DROP SCHEMA IF EXISTS public, closed CASCADE; CREATE SCHEMA public")
        await connection.execute("GRANT USAGE ON SCHEMA public, kept TO PUBLIC")
    return kept.url


@pytest.fixture
async def role(plain: Plain) -> AsyncIterator[str]:
    """The name of a role that owns nothing and is no superuser. Its sessions are terminated before it is dropped."""
    async with made_role(plain) as name:
        yield name
        await terminate(plain, f"FROM {OTHERS} AND usename = '{name}'")


SMALL_RANGES = BlockReading(min_blocks=1, first_blocks=4, range_target=16 * KB, hold_limit=64 * KB)
"""A small table counts as large, and has many ranges."""

WIDE_RANGES = BlockReading(min_blocks=1, first_blocks=64, range_target=WIDE_RANGE, hold_limit=128 * KB)
"""Ranges that three connections read at once, of which two soon reach the hold limit."""


def quick(reading: BlockReading) -> dict[str, Any]:
    """The same number of pauses, each shorter."""
    return {"reading": replace(reading, first_pause=reading.first_pause / 8), "clean_up_timeout": 0.25}


Act = Callable[[], Awaitable[object]]


class SinkAfter:
    """A sink that acts when each of these numbers of bytes is received."""

    def __init__(self, act: Act, *places: int) -> None:
        self.received = Received()
        self._act = act
        self._places = list(places)
        self._bytes = 0

    async def take(self, chunk: bytes | bytearray, rows: int) -> None:
        await self.received.take(chunk, rows)
        self._bytes += len(chunk)
        if self._places and self._bytes >= self._places[0]:
            del self._places[0]
            await self._act()


@dataclass
class Gate:
    """Stops a sink until it is opened."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Stop(Exception):
    """The failure of a sink in a test."""


async def stop() -> None:
    raise Stop


def in_turn(*acts: Act) -> Act:
    """Returns an act that does the next of these each time."""
    rest = iter(acts)

    async def act() -> None:
        await next(rest)()

    return act


async def terminate(plain: Plain, sessions: str) -> int:
    """Ends the sessions of a FROM clause, and returns their number when they are gone.

    A session that cannot write its last message may stay.
    """
    pids = [row["pid"] for row in await plain.fetch(f"SELECT pid {sessions}")]
    await plain.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids)
    lively = "FROM pg_stat_activity WHERE pid = ANY ($1) AND wait_event IS DISTINCT FROM 'ClientWrite'"
    await eventually(plain, f"NOT EXISTS (SELECT {lively})", pids)
    return len(pids)


async def export_by_blocks(source: Opened, asked: ExportSpec) -> Received:
    """Exports, and checks that the cursor is a BlockCursor and its expected rows become exact."""
    received = Received()
    async with source.source.open(asked) as rows:
        assert isinstance(rows.cursor, BlockCursor)
        received.total = await rows.drain(received.take)
        assert rows.expected == received.total
    return received


async def assert_recovered(source: Opened, plain: Plain, kept: Kept) -> None:
    """Checks that nothing of an export is left in the server, and the next one on the same pool is complete."""
    await assert_nothing_runs(plain)
    await assert_all_usable(source.pool)
    assert_conforms(await export_by_blocks(source, WIDE), kept.wide)


# The layout of the heap


ROWS = "SELECT n, md5(n::text) || repeat('-', n % 100) AS words FROM generate_series(1, 6000) n"
TABLE = f"CREATE TABLE shape WITH (autovacuum_enabled = off) AS {ROWS}"
LAYOUTS: dict[str, Sequence[str]] = {
    "empty": ["CREATE TABLE shape (n int, words text)"],
    "one_row": ["CREATE TABLE shape AS SELECT 1 AS n, 'x' AS words"],
    "one_block": ["CREATE TABLE shape AS SELECT n, 'x' AS words FROM generate_series(1, 50) n"],
    "one_row_in_a_block": [
        "CREATE TABLE shape (n int, words text); ALTER TABLE shape ALTER words SET STORAGE PLAIN",
        "INSERT INTO shape SELECT n, repeat(chr(97 + n % 26), 5000) FROM generate_series(1, 100) n",
    ],
    "dead_rows": [TABLE, "DELETE FROM shape WHERE n % 3 > 0"],
    "dead_rows_alone": [TABLE, "DELETE FROM shape"],
    "vacuumed_holes": [TABLE, "DELETE FROM shape WHERE n % 3 > 0", "VACUUM shape"],
    "empty_blocks_between": [TABLE, "DELETE FROM shape WHERE n > 500 AND n < 5500", "VACUUM shape"],
    "rows_in_the_holes_of_others": [
        TABLE,
        "DELETE FROM shape WHERE n % 3 > 0",
        "VACUUM shape",
        "UPDATE shape SET words = words || 'moved' WHERE n % 5 = 0",
        "INSERT INTO shape SELECT -n, 'new' FROM generate_series(1, 1000) n",
    ],
    "hot_updates": [
        f"CREATE TABLE shape WITH (fillfactor = 50, autovacuum_enabled = off) AS {ROWS}",
        *["UPDATE shape SET words = words || '!' WHERE n % 3 = 0"] * 3,
    ],
    "updates_that_leave_the_block": [TABLE, "CREATE INDEX ON shape (n)", "UPDATE shape SET n = -n WHERE n % 3 = 0"],
    "rolled_back": [
        TABLE,
        f"BEGIN; INSERT INTO shape {ROWS}; UPDATE shape SET n = -n; ROLLBACK",
        "INSERT INTO shape VALUES (0)",
    ],
    "truncated_and_refilled": [TABLE, "TRUNCATE shape", f"INSERT INTO shape {ROWS} OFFSET 3000"],
    "refilled_in_one_transaction": [TABLE, f"BEGIN; TRUNCATE shape; INSERT INTO shape {ROWS} LIMIT 3000; COMMIT"],
    "clustered": [TABLE, "CREATE INDEX backwards ON shape (n DESC)", "CLUSTER shape USING backwards"],
    "frozen": [TABLE, "VACUUM (FREEZE) shape"],
    "toasted": [
        "CREATE TABLE shape (n int, words text); ALTER TABLE shape ALTER words SET STORAGE EXTERNAL",
        f"INSERT INTO shape SELECT n, CASE WHEN n % 700 = 7 THEN repeat(chr(97 + n % 26), {MB}) ELSE 'x' END"
        " FROM generate_series(1, 3000) n",
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
async def test_a_heap_of_any_layout_is_written_as_copy_writes_it(database: str, plain: Plain, name: str) -> None:
    for statement in LAYOUTS[name]:
        await plain.execute(statement)
    async with opened(database, CursorChoice.BLOCKS, "shape", reading=SMALL_RANGES) as source:
        exported = await export_by_blocks(source, spec("shape", ["words", "n"]))
    assert_conforms(exported, await copied(plain, "SELECT words, n FROM shape"))


@pytest.mark.parametrize("left", [0, 2000])
async def test_a_heap_whose_tail_was_cut_off_is_written_as_copy_writes_it(
    database: str, plain: Plain, left: int
) -> None:
    await plain.execute(TABLE)
    await plain.execute("DELETE FROM shape WHERE n > $1", left)
    await vacuum_until_short(plain)
    async with opened(database, CursorChoice.BLOCKS, "shape", reading=SMALL_RANGES) as source:
        exported = await export_by_blocks(source, spec("shape", ["n", "words"]))
    assert exported.total == left
    assert_conforms(exported, await copied(plain, "SELECT n, words FROM shape"))


async def vacuum_until_short(plain: Plain) -> None:
    """Repeats VACUUM until no other session sees the rows of the tail."""
    before = await plain.fetchval("SELECT pg_relation_size('shape')")
    async with asyncio.timeout(WAIT):
        while await plain.fetchval("SELECT pg_relation_size('shape')") == before:
            await plain.execute("VACUUM shape")


async def test_ranges_become_small_where_the_rows_are_wide(database: str, plain: Plain) -> None:
    seen: list[BlockRange] = []

    class Seen(RangeSplitter):
        def adapt(self, block_range: BlockRange) -> None:
            super().adapt(block_range)
            seen.append(block_range)

    reading = replace(SMALL_RANGES, first_blocks=8, hold_limit=MB, splitter=Seen)
    await plain.execute("CREATE TABLE shape (n int, filler text, words text)")
    await plain.execute("ALTER TABLE shape ALTER filler SET STORAGE PLAIN, ALTER words SET STORAGE EXTERNAL")
    await plain.execute(
        "INSERT INTO shape SELECT n, repeat('-', 5000), CASE WHEN n > 64 THEN repeat('x', 20000) END"
        " FROM generate_series(1, 400) n"
    )
    async with opened(database, CursorChoice.BLOCKS, "shape", reading=reading) as source:
        exported = await export_by_blocks(source, spec("shape", ["n", "words"]))
    assert_conforms(exported, await copied(plain, "SELECT n, words FROM shape"))
    assert max(block_range.blocks for block_range in seen) > 8
    assert [each.blocks for each in sorted(seen, key=lambda each: each.number)[-20:]] == [1] * 20


async def test_blocks_behind_the_end_of_a_table_are_empty(database: str, plain: Plain) -> None:
    await plain.execute(TABLE)
    query = Query(columns=('"n"',), relation='"public"."shape"', where="")
    last = await plain.fetchval("SELECT pg_relation_size('shape') / current_setting('block_size')::int")
    assert await copied(plain, query.sql_of_blocks(query.relation, last, last + 1000)) == b"n\n"
    tail = await copied(plain, query.sql_of_blocks(query.relation, last - 1, last + 1000))
    assert tail == await copied(plain, query.sql_of_blocks(query.relation, last - 1, last))


# Changes of rows during the export


CHANGES = {
    "inserted": ["INSERT INTO shape SELECT -n, 'new' FROM generate_series(1, 20000) n"],
    "updated": ["UPDATE shape SET words = 'changed'", "UPDATE shape SET n = -n"],
    "deleted": ["DELETE FROM shape"],
    "deleted and vacuumed": ["DELETE FROM shape WHERE n % 2 = 0 OR n > 3000", "VACUUM (TRUNCATE false) shape"],
    "indexed": ["CREATE INDEX ON shape (n)", "ANALYZE shape"],
}


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("change", CHANGES)
async def test_changes_of_rows_during_the_export_are_invisible(
    database: str, plain: Plain, change: str, number: int
) -> None:
    await plain.execute(TABLE)
    expected = await copied(plain, "SELECT n, words FROM shape")

    async def make_change() -> None:
        for statement in CHANGES[change]:
            await plain.execute(statement)

    async with opened(database, CursorChoice.BLOCKS, "shape", reading=SMALL_RANGES) as source:
        sink = SinkAt(number, make_change)
        sink.received.total = await source.drain(spec("shape", ["n", "words"]), sink.take)
        assert_conforms(sink.received, expected)
        exported = await export_by_blocks(source, spec("shape", ["n", "words"]))
    assert_conforms(exported, await copied(plain, "SELECT n, words FROM shape"))


CUTS_OFF = """EXISTS (
    SELECT FROM pg_stat_progress_vacuum WHERE datname = current_database() AND phase = 'truncating heap'
)"""


async def test_a_vacuum_that_truncates_the_table_waits_for_the_export(database: str, plain: Plain) -> None:
    await plain.execute(TABLE)
    await plain.execute("DELETE FROM shape WHERE n > 1000")
    expected = await copied(plain, "SELECT n, words FROM shape")
    size = "pg_relation_size('shape')"
    before = await plain.fetchval(f"SELECT {size}")
    async with (
        opened(database, CursorChoice.BLOCKS, "shape", reading=SMALL_RANGES) as source,
        connected(database) as other,
        AsyncExitStack() as stack,
    ):
        vacuuming: list[asyncio.Task[str]] = []

        async def vacuum() -> None:
            vacuuming.append(await stack.enter_async_context(running(other.execute("VACUUM shape"))))
            await eventually(plain, CUTS_OFF)

        sink = SinkAt(0, vacuum)
        sink.received.total = await source.drain(spec("shape", ["n", "words"]), sink.take)
        assert_conforms(sink.received, expected)
        assert not vacuuming[0].done()
        await asyncio.wait_for(vacuuming[0], WAIT)
        assert await plain.fetchval(f"SELECT {size}") < before
        assert_conforms(await export_by_blocks(source, spec("shape", ["n", "words"])), expected)


async def test_connections_opened_later_see_the_same_snapshot(database: str, plain: Plain, kept: Kept) -> None:
    await plain.execute("CREATE TABLE wide AS TABLE kept.wide")
    moments: list[object] = []

    async def change() -> None:
        await plain.execute("DELETE FROM wide WHERE n % 3 = 0; UPDATE wide SET n = -n; INSERT INTO wide VALUES (0, '')")
        moments.append(await plain.fetchval("SELECT clock_timestamp()"))

    async def see_workers() -> None:
        await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND xact_start > $1", *moments)

    async with opened(database, CursorChoice.BLOCKS, "wide", reading=WIDE_RANGES) as source:
        sink = SinkAfter(in_turn(change, see_workers), 1, 1000)
        sink.received.total = await source.drain(spec("wide", ["n", "words"]), sink.take)
    assert_conforms(sink.received, kept.wide)


# Locks


WAITS_FOR_LOCK = f"EXISTS (SELECT FROM {OTHERS} AND wait_event_type = 'Lock')"


@pytest.mark.parametrize("statement", ["ALTER TABLE shape ADD more int", "REINDEX INDEX shape_n"])
async def test_a_statement_that_waits_for_the_export_causes_no_deadlock_of_leader_and_workers(
    database: str, plain: Plain, statement: str
) -> None:
    await plain.execute(f"{TABLE}; CREATE INDEX shape_n ON shape (n)")
    expected = await copied(plain, "SELECT n, words FROM shape")
    async with (
        opened(database, CursorChoice.BLOCKS, "shape", **quick(SMALL_RANGES)) as source,
        connected(database) as other,
        AsyncExitStack() as stack,
    ):
        waiting: list[asyncio.Task[str]] = []

        async def let_wait() -> None:
            waiting.append(await stack.enter_async_context(running(other.execute(statement))))
            await eventually(plain, WAITS_FOR_LOCK)

        sink = SinkAt(0, let_wait)
        async with asyncio.timeout(WAIT):
            sink.received.total = await source.drain(spec("shape", ["n", "words"]), sink.take)
        assert_conforms(sink.received, expected)
        await asyncio.wait_for(waiting[0], WAIT)


async def test_a_reconnecting_worker_behind_a_session_that_waits_for_the_leader_never_hangs_the_export(
    database: str, plain: Plain, kept: Kept
) -> None:
    hasty = replace(WIDE_RANGES, lock_timeout="50ms")
    async with (
        opened(database, CursorChoice.BLOCKS, "kept.wide", **quick(hasty)) as source,
        connected(database) as other,
        AsyncExitStack() as stack,
    ):

        async def let_wait_and_lose_workers() -> None:
            await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}")
            await stack.enter_async_context(running(other.execute("BEGIN; LOCK TABLE kept.wide; ROLLBACK")))
            await eventually(plain, WAITS_FOR_LOCK)
            await terminate(plain, f"{WORKER_SESSIONS} AND {FULL}")

        sink = SinkAfter(let_wait_and_lose_workers, 100)
        async with asyncio.timeout(WAIT):
            try:
                sink.received.total = await source.drain(WIDE, sink.take)
            except ExportFailure:
                assert kept.wide.startswith(sink.received.body)
            else:
                assert_conforms(sink.received, kept.wide)
        await assert_recovered(source, plain, kept)


# Partitions and children


TREE = """
    CREATE TABLE tree (n int, kind text, words text) PARTITION BY LIST (kind);
    CREATE TABLE leaf_b PARTITION OF tree FOR VALUES IN ('b', 'c');
    CREATE TABLE branch PARTITION OF tree FOR VALUES IN ('a') PARTITION BY RANGE (n);
    CREATE TABLE branch_high PARTITION OF branch FOR VALUES FROM (2000) TO (4000);
    CREATE TABLE branch_empty PARTITION OF branch FOR VALUES FROM (4000) TO (5000);
    CREATE TABLE twig (gone int, words text, gone_too text, kind text, n int) PARTITION BY HASH (n);
    ALTER TABLE twig DROP gone;
    CREATE TABLE twig_0 PARTITION OF twig FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE twig_1 PARTITION OF twig FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO twig (n, kind, words, gone_too) SELECT n, 'a', 'before', 'x' FROM generate_series(1, 500) n;
    ALTER TABLE twig DROP gone_too;
    ALTER TABLE branch ATTACH PARTITION twig FOR VALUES FROM (MINVALUE) TO (2000);
    CREATE TABLE leaf_other PARTITION OF tree DEFAULT;
    INSERT INTO tree SELECT n, substr('abcde', 1 + n % 5, 1), repeat('x', n % 300) FROM generate_series(1, 3999) n;
    DELETE FROM tree WHERE n % 9 = 0; UPDATE tree SET words = 'moved', kind = 'c' WHERE n % 13 = 0;
    ANALYZE tree
"""
BELOW = Condition(column="n", operator=Operator.LT, values=("1500",))
KIND_A = Condition(column="kind", operator=Operator.EQ, values=("a",))
PRUNINGS: dict[str, tuple[str, Sequence[Condition]]] = {
    "every_partition": ("", []),
    "one_partition": (" WHERE kind = 'b'", [Condition(column="kind", operator=Operator.EQ, values=("b",))]),
    "one_branch": (" WHERE kind = 'a'", [KIND_A]),
    "one_twig": (" WHERE kind = 'a' AND n < 1500", [KIND_A, BELOW]),
    "rows_of_many": (" WHERE n < 1500", [BELOW]),
    "the_default": (" WHERE kind IN ('e', 'd')", [Condition(column="kind", operator=Operator.EQ, values=("e", "d"))]),
    "an_empty_one": (
        " WHERE kind = 'a' AND n >= 4100",
        [KIND_A, Condition(column="n", operator=Operator.GTE, values=("4100",))],
    ),
}


@pytest.mark.parametrize("name", PRUNINGS)
async def test_partitions_of_any_level_and_form_are_written_as_copy_writes_the_whole(
    database: str, plain: Plain, name: str
) -> None:
    where, conditions = PRUNINGS[name]
    await plain.execute(TREE)
    async with opened(database, CursorChoice.BLOCKS, "tree", reading=SMALL_RANGES) as source:
        exported = await export_by_blocks(source, spec("tree", ["words", "n", "kind"], *conditions))
    assert_conforms(exported, await copied(plain, f"SELECT words, n, kind FROM tree{where}"))
    assert (exported.total == 0) == (name == "an_empty_one")


async def test_a_filter_that_leaves_no_partition_gives_no_rows(database: str, plain: Plain) -> None:
    await plain.execute("CREATE TABLE tree (n int) PARTITION BY LIST (n)")
    await plain.execute("CREATE TABLE leaf PARTITION OF tree FOR VALUES IN (1); INSERT INTO tree VALUES (1)")
    nothing = Condition(column="n", operator=Operator.EQ, values=("2",))
    async with opened(database, CursorChoice.BLOCKS, "tree") as source:
        assert_conforms(await source.export(spec("tree", ["n"], nothing)), b"n\n")


FAMILY = """
    CREATE TABLE parent (n int, words text);
    CREATE TABLE daughter (own int) INHERITS (parent);
    CREATE TABLE son (CHECK (n < 0)) INHERITS (parent);
    CREATE TABLE grandchild () INHERITS (daughter, son);
    INSERT INTO parent SELECT n, repeat('p', n % 200) FROM generate_series(1, 2000) n;
    INSERT INTO daughter SELECT n, repeat('d', n % 200), 1 FROM generate_series(1, 2000) n;
    INSERT INTO son SELECT -n, repeat('s', n % 200) FROM generate_series(1, 2000) n;
    INSERT INTO grandchild SELECT -n, repeat('g', n % 200), 1 FROM generate_series(1, 2000) n;
    DELETE FROM parent WHERE n % 5 = 0
"""


FEW = {Operator.GT: "n > 100", Operator.LT: "n < 100"}


@pytest.mark.parametrize("name", ["parent", "daughter", "son", "grandchild"])
@pytest.mark.parametrize("operator", [None, *FEW])
async def test_a_table_and_those_that_inherit_from_it_are_each_read_once_and_in_the_order_of_copy(
    database: str, plain: Plain, name: str, operator: Operator | None
) -> None:
    await plain.execute(FAMILY)
    where = "" if operator is None else f" WHERE {FEW[operator]}"
    conditions = [] if operator is None else [Condition(column="n", operator=operator, values=("100",))]
    async with opened(database, CursorChoice.BLOCKS, name, reading=SMALL_RANGES) as source:
        exported = await export_by_blocks(source, spec(name, ["n", "words"], *conditions))
    assert_conforms(exported, await copied(plain, f"SELECT n, words FROM {name}{where}"))


# Row policies and privileges


POLICED = """
    CREATE TABLE policed (n int, owner text, words text) PARTITION BY RANGE (n);
    CREATE TABLE policed_low PARTITION OF policed FOR VALUES FROM (0) TO (3000);
    CREATE TABLE policed_high PARTITION OF policed FOR VALUES FROM (3000) TO (6000);
    INSERT INTO policed SELECT n, CASE WHEN n % 3 = 0 THEN '{0}' ELSE 'nobody' END, repeat('x', 400)
        FROM generate_series(0, 5999) n;
    CREATE POLICY mine ON policed USING (owner = current_user);
    CREATE POLICY odd ON policed_low USING (n % 2 = 1);
    GRANT SELECT ON policed, policed_low, policed_high TO {0};
    ANALYZE policed
"""
POLICIES = {
    "none": ["policed_high NO FORCE"],
    "on_the_whole": ["policed ENABLE"],
    "on_one_partition": ["policed_low ENABLE"],
    "on_both": ["policed ENABLE", "policed_low ENABLE"],
    "on_both_and_for_the_owner_too": ["policed ENABLE", "policed_low ENABLE", "policed FORCE"],
}


@pytest.mark.parametrize("relation", ["policed", "policed_low", "policed_high"])
@pytest.mark.parametrize("name", POLICIES)
async def test_a_role_gets_the_rows_that_copy_gives_it_whichever_relation_has_policies(
    database: str, plain: Plain, role: str, name: str, relation: str
) -> None:
    await plain.execute(POLICED.format(role))
    for setting in POLICIES[name]:
        await plain.execute("ALTER TABLE {} {} ROW LEVEL SECURITY".format(*setting.split(" ", 1)))
    url = entered_as(database, role)
    async with (
        opened(url, CursorChoice.AUTO, relation, reading=SMALL_RANGES) as source,
        plain_session(url) as as_role,
    ):
        async with source.source.open(spec(relation, ["n", "owner"])) as rows:
            assert isinstance(rows.cursor, BlockCursor) or relation == "policed"
            exported = Received()
            exported.total = await rows.drain(exported.take)
        assert_conforms(exported, await copied(as_role, f"SELECT n, owner FROM {relation}"))


@pytest.mark.parametrize("forced", [False, True])
async def test_a_table_with_policies_of_its_own_is_read_by_blocks_under_them(
    database: str, plain: Plain, role: str, forced: bool
) -> None:
    await plain.execute("CREATE TABLE shape AS SELECT n, repeat('x', 300) AS words FROM generate_series(1, 6000) n")
    await plain.execute(
        "ALTER TABLE shape ENABLE ROW LEVEL SECURITY; CREATE POLICY sevenths ON shape USING (n % 7 = 0)"
    )
    if forced:
        await plain.execute(f"ALTER TABLE shape OWNER TO {role}; ALTER TABLE shape FORCE ROW LEVEL SECURITY")
    await plain.execute(f"GRANT SELECT ON shape TO {role}")
    url = entered_as(database, role)
    above = Condition(column="n", operator=Operator.GT, values=("700",))
    async with opened(url, CursorChoice.BLOCKS, "shape", reading=SMALL_RANGES) as source, plain_session(url) as as_role:
        exported = await export_by_blocks(source, spec("shape", ["n", "words"], above))
        assert_conforms(exported, await copied(as_role, "SELECT n, words FROM shape WHERE n > 700"))
        assert exported.total == 757


@pytest.mark.parametrize("table", ["partitions", "children"])
@pytest.mark.parametrize("kept_from", ["the table", "the schema"])
async def test_a_role_that_may_read_only_the_parent_table_gets_all_rows(
    database: str, plain: Plain, role: str, table: str, kept_from: str
) -> None:
    form = {
        "partitions": "CREATE TABLE whole (n int, words text) PARTITION BY LIST (n);"
        " CREATE TABLE closed.part PARTITION OF whole DEFAULT",
        "children": "CREATE TABLE whole (n int, words text); CREATE TABLE closed.part () INHERITS (whole)",
    }
    allow = {
        "the table": f"GRANT USAGE ON SCHEMA closed TO {role}",
        "the schema": f"GRANT SELECT ON closed.part TO {role}",
    }
    await plain.execute(f"CREATE SCHEMA closed; {form[table]}; {allow[kept_from]}; GRANT SELECT ON whole TO {role}")
    await plain.execute("INSERT INTO closed.part SELECT n, repeat('x', 900) FROM generate_series(1, 500) n")
    async with opened(entered_as(database, role), CursorChoice.AUTO, "whole", reading=SMALL_RANGES) as source:
        exported = await source.export(spec("whole", ["n", "words"]))
    assert_conforms(exported, await copied(plain, "SELECT n, words FROM whole"))


# Filters


def above(column: str, bound: int) -> Condition:
    return Condition(column=column, operator=Operator.GT, values=(str(bound),))


def below(column: str, bound: int) -> Condition:
    return Condition(column=column, operator=Operator.LT, values=(str(bound),))


def equal(column: str, *values: int) -> Condition:
    return Condition(column=column, operator=Operator.EQ, values=tuple(map(str, values)))


FILTERS: dict[str, tuple[str, int, Sequence[Condition]]] = {
    "none": ("n < 0", 0, [below("n", 0)]),
    "all": ("n > 0", 30000, [above("n", 0)]),
    "a_seventh": ("seventh = 3", 4286, [equal("seventh", 3)]),
    "six_sevenths": ("seventh > 0", 25715, [above("seventh", 0)]),
    "one_in_a_thousand": ("rare = 500", 30, [equal("rare", 500)]),
    "the_first_blocks": ("n < 200", 199, [below("n", 200)]),
    "the_last_blocks": ("n > 29800", 200, [above("n", 29800)]),
    "one_row": ("n = 15000", 1, [equal("n", 15000)]),
    "both_ends": ("n IN (1, 30000)", 2, [equal("n", 1, 30000)]),
    "two_columns": ("n > 15000 AND seventh IN (1, 2)", 4286, [above("n", 15000), equal("seventh", 1, 2)]),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_filtered_rows_are_those_of_copy_in_any_part_of_the_blocks(
    database: str, plain: Plain, name: str
) -> None:
    where, total, conditions = FILTERS[name]
    reading = replace(SMALL_RANGES, first_blocks=16, range_target=64 * KB)
    async with opened(database, CursorChoice.BLOCKS, "kept.numbered", reading=reading) as source:
        exported = await export_by_blocks(source, spec(NUMBERED.dataset, NUMBERED.columns, *conditions))
    assert_conforms(exported, await copied(plain, f"SELECT * FROM kept.numbered WHERE {where}"))
    assert exported.total == total


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("first", [0, 200])
async def test_a_range_is_read_by_its_blocks_and_never_by_an_index(plain: Plain, name: str, first: int) -> None:
    assert await scans_of_range(plain, FILTERS[name][0], first) == ["Tid Range Scan"]


async def test_a_range_is_read_by_its_blocks_with_tid_scans_disabled_in_the_server(plain: Plain) -> None:
    await plain.execute("SET enable_tidscan = off")
    assert await scans_of_range(plain, "seventh > 0", 200) == ["Tid Range Scan"]


async def scans_of_range(plain: Plain, where: str, first: int) -> list[str]:
    query = Query(columns=('"n"', '"words"'), relation='"kept"."numbered"', where=f" WHERE {where}")
    async with plain.transaction(isolation="repeatable_read", readonly=True):
        await plain.execute(SCAN_BLOCKS)
        sql = query.sql_of_blocks(query.relation, first, first + 64)
        node = json.loads(await plain.fetchval(f"EXPLAIN (FORMAT JSON) {sql}"))[0]["Plan"]
    scans = [node["Node Type"]]
    while node := next(iter(node.get("Plans", ())), None):
        scans.append(node["Node Type"])
    return scans


@pytest.mark.parametrize("name", FILTERS)
async def test_a_query_that_an_index_serves_is_left_to_copy(database: str, plain: Plain, name: str) -> None:
    where, _, conditions = FILTERS[name]
    plan = json.loads(await plain.fetchval(f"EXPLAIN (FORMAT JSON) SELECT * FROM kept.numbered WHERE {where}"))
    scanned_whole = plan[0]["Plan"]["Node Type"] == "Seq Scan"
    assert scanned_whole == (name in {"all", "six_sevenths"}) or name in {"a_seventh", "two_columns"}
    asked = spec(NUMBERED.dataset, NUMBERED.columns, *conditions)
    async with opened(database, CursorChoice.AUTO, "kept.numbered") as source, source.source.open(asked) as rows:
        assert isinstance(rows.cursor, BlockCursor if scanned_whole else CopyCursor)
        exported = Received()
        exported.total = await rows.drain(exported.take)
    assert_conforms(exported, await copied(plain, f"SELECT * FROM kept.numbered WHERE {where}"))


# Lost connections


WORKER_LOST = "a worker of an export has lost its connection"


@pytest.mark.parametrize(
    "places",
    [[100], [6 * MB], range(100, 20 * MB, 3 * MB)],
    ids=["as_they_begin", "midway", "again_and_again"],
)
async def test_a_lost_worker_loses_and_repeats_no_row(
    database: str, plain: Plain, kept: Kept, caplog: pytest.LogCaptureFixture, places: Sequence[int]
) -> None:
    lost = 0

    async def lose_workers() -> None:
        nonlocal lost
        if not lost:
            await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}")
        lost += await terminate(plain, WORKER_SESSIONS)

    async with opened(database, CursorChoice.BLOCKS, "kept.wide", **quick(WIDE_RANGES)) as source:
        sink = SinkAfter(lose_workers, *places)
        sink.received.total = await source.drain(WIDE, sink.take)
        assert_conforms(sink.received, kept.wide)
        assert WORKERS <= caplog.text.count(WORKER_LOST) <= lost
        await assert_recovered(source, plain, kept)


async def test_a_worker_lost_between_two_ranges_loses_no_row(database: str, plain: Plain, kept: Kept) -> None:
    """The whole range of the worker is held, and it has not taken the next one."""
    between, lost = set[int](), asyncio.Event()

    class StandingBetween(ReorderBuffer):
        async def finish(self, block_range: BlockRange) -> None:
            await super().finish(block_range)
            if 0 < block_range.number <= WORKERS:
                between.add(block_range.number)
                await lost.wait()

    reading = replace(WIDE_RANGES, hold_limit=64 * MB, buffer=StandingBetween)

    async def lose_workers() -> None:
        await until(lambda: len(between) == WORKERS, "every worker stands between two ranges")
        assert await terminate(plain, WORKER_SESSIONS) > 0
        lost.set()

    async with opened(database, CursorChoice.BLOCKS, "kept.wide", **quick(reading)) as source:
        sink = SinkAfter(lose_workers, 100)
        sink.received.total = await source.drain(WIDE, sink.take)
        assert_conforms(sink.received, kept.wide)
        await assert_recovered(source, plain, kept)


async def test_the_export_completes_without_a_worker_lost_at_its_start(database: str, plain: Plain, kept: Kept) -> None:
    async with (
        proxied(database) as proxy,
        opened(proxy.url, CursorChoice.BLOCKS, "kept.wide", reading=WIDE_RANGES) as source,
    ):

        async def hold_beginning() -> None:
            proxy.hold_answer_to("pg_backend_pid() AS process")

        async def lose_beginner() -> None:
            await asyncio.wait_for(proxy.holding.wait(), WAIT)
            await eventually(
                plain, f"EXISTS (SELECT {WORKER_SESSIONS} AND query LIKE '%AS process%' AND state ~ '^idle')"
            )
            assert await terminate(plain, f"{WORKER_SESSIONS} AND query LIKE '%AS process%'") > 0
            proxy.release()

        sink = SinkAfter(in_turn(hold_beginning, lose_beginner), 1, 100)
        sink.received.total = await source.drain(WIDE, sink.take)
        assert_conforms(sink.received, kept.wide)
        await assert_recovered(source, plain, kept)


async def test_an_export_does_not_wait_for_a_worker_that_has_not_begun(database: str, plain: Plain) -> None:
    expected = await copied(plain, "SELECT * FROM kept.mixed")
    async with (
        proxied(database) as proxy,
        opened(proxy.url, CursorChoice.BLOCKS, "kept.mixed", **quick(SMALL_RANGES)) as source,
    ):

        async def hold_beginning() -> None:
            proxy.hold_answer_to("pg_backend_pid() AS process")

        sink = SinkAt(0, hold_beginning)
        try:
            async with asyncio.timeout(WAIT):
                sink.received.total = await source.drain(MIXED, sink.take)
        finally:
            proxy.release()
        assert_conforms(sink.received, expected)


@pytest.mark.parametrize("place", [1, 100, 6 * MB])
async def test_a_lost_leader_fails_the_export(database: str, plain: Plain, kept: Kept, place: int) -> None:
    async def lose_leader() -> None:
        if place > 1:
            await eventually(plain, f"count(*) > 0 {WORKER_SESSIONS} AND {FULL}")
        assert await terminate(plain, LEADER_SESSION) == 1

    async with opened(database, CursorChoice.BLOCKS, "kept.wide", reading=WIDE_RANGES) as source:
        sink = SinkAfter(lose_leader, place)
        async with asyncio.timeout(WAIT):
            with pytest.raises(ExportFailure, match=r"^[^\n]*(connection|terminat)[^\n]*$"):
                await source.drain(WIDE, sink.take)
        assert kept.wide.startswith(sink.received.body)
        await assert_recovered(source, plain, kept)


@pytest.mark.parametrize("workers", [0, WORKERS])
async def test_a_leader_lost_between_two_ranges_fails_the_export(database: str, plain: Plain, workers: int) -> None:
    """The whole range was received, and the leader has sent nothing since."""

    async def lose_leader() -> None:
        await eventually(plain, f"(SELECT state = 'idle in transaction' {LEADER_SESSION})")
        assert await terminate(plain, LEADER_SESSION) == 1

    async with pooled(database) as pool:
        catalog = await read_catalog(pool, ["kept.numbered"])
        source = Source(
            Connections(pool, leaders=1, workers=workers), catalog, CursorChoice.BLOCKS, reading=SMALL_RANGES
        )
        async with source.open(NUMBERED) as rows:
            with pytest.raises(ExportFailure, match=r"^[^\n]*(connection|terminat)[^\n]*$"):
                await rows.drain(SinkAfter(lose_leader, 100).take)
        await assert_nothing_runs(plain)
        await assert_all_usable(pool)


async def test_an_export_whose_leader_is_lost_after_its_last_range_is_whole_or_fails(
    database: str, plain: Plain, kept: Kept
) -> None:
    """Sessions that have imported its snapshot keep it; no other can import it."""
    two_ranges = replace(WIDE_RANGES, first_blocks=240, hold_limit=1)

    async def let_worker_begin() -> None:
        await eventually(plain, WORKER_READS)

    async def lose_leader() -> None:
        await eventually(plain, f"(SELECT state = 'idle in transaction' {LEADER_SESSION})")
        await terminate(plain, LEADER_SESSION)

    async with opened(database, CursorChoice.BLOCKS, "kept.wide", reading=two_ranges) as source:
        sink = SinkAfter(in_turn(let_worker_begin, lose_leader), 100, len(kept.wide) * 3 // 4)
        try:
            sink.received.total = await source.drain(WIDE, sink.take)
        except ExportFailure:
            assert kept.wide.startswith(sink.received.body)
        else:
            assert_conforms(sink.received, kept.wide)
        await assert_recovered(source, plain, kept)


@pytest.fixture
async def limited(database: str, plain: Plain, role: str) -> str:
    """The URL of the database for the role, which may read `kept.wide`."""
    await plain.execute(f"GRANT SELECT ON kept.wide TO {role}")
    return entered_as(database, role)


def test_a_worker_stops_reconnecting_within_ten_seconds() -> None:
    assert sum(BlockReading().first_pause * 2**losses for losses in range(blocks.MAX_RECONNECTS)) < 10


async def test_a_worker_that_cannot_reconnect_with_an_unfinished_range_fails_the_export(
    limited: str, plain: Plain, role: str, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    async def lose_workers() -> None:
        await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}")
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        await terminate(plain, f"{WORKER_SESSIONS} AND {FULL}")

    async with opened(limited, CursorChoice.BLOCKS, "kept.wide", **quick(WIDE_RANGES)) as source:
        sink = SinkAfter(lose_workers, 100)
        async with asyncio.timeout(WAIT):
            with pytest.raises(ExportFailure, match=r"^PostgreSQL: too many connections for role "):
                await source.drain(WIDE, sink.take)
        assert caplog.text.count(WORKER_LOST) > blocks.MAX_RECONNECTS
        assert kept.wide.startswith(sink.received.body)
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
        await assert_recovered(source, plain, kept)


async def test_a_worker_that_reconnects_late_continues_its_range(
    limited: str, plain: Plain, role: str, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    async def lose_workers() -> None:
        await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}")
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        await terminate(plain, f"{WORKER_SESSIONS} AND {FULL}")

    async def let_workers_back() -> None:
        await until(lambda: f"{WORKER_LOST}: TooManyConnectionsError" in caplog.text, "a worker cannot reconnect")
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")

    async with (
        opened(limited, CursorChoice.BLOCKS, "kept.wide", reading=WIDE_RANGES) as source,
        running(let_workers_back()),
    ):
        sink = SinkAfter(lose_workers, 100)
        sink.received.total = await source.drain(WIDE, sink.take)
    assert_conforms(sink.received, kept.wide)


async def test_a_database_that_is_closed_to_a_lost_worker_fails_the_export(
    postgres: str, database: str, plain: Plain, kept: Kept
) -> None:
    name = await plain.fetchval("SELECT quote_ident(current_database())")

    async def lose_workers() -> None:
        await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}")
        await run_sql(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await terminate(plain, f"{WORKER_SESSIONS} AND {FULL}")

    async with opened(database, CursorChoice.BLOCKS, "kept.wide", **quick(WIDE_RANGES)) as source:
        try:
            async with asyncio.timeout(WAIT):
                with pytest.raises(ExportFailure, match=r"^PostgreSQL: database .* is not currently accepting"):
                    await source.drain(WIDE, SinkAfter(lose_workers, 100).take)
        finally:
            await run_sql(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await assert_recovered(source, plain, kept)


async def test_the_export_completes_without_a_worker_that_never_connects(
    limited: str, plain: Plain, role: str, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    async with opened(limited, CursorChoice.BLOCKS, "kept.wide", reading=WIDE_RANGES) as source:
        assert_conforms(await export_by_blocks(source, WIDE), kept.wide)
    assert caplog.text.count(WORKER_LOST) == WORKERS


# The budget of connections


async def test_concurrent_exports_share_spare_connections_without_waiting(
    database: str, plain: Plain, kept: Kept
) -> None:
    async with pooled(database, size=4) as pool, AsyncExitStack() as stack:
        source = Source(
            Connections(pool, leaders=3, workers=WORKERS),
            await read_catalog(pool, ["kept.wide"]),
            CursorChoice.BLOCKS,
            reading=WIDE_RANGES,
        )
        gates = [Gate() for _ in range(3)]
        sinks = [SinkAfter(gate.wait, 100) for gate in gates]
        exports = []
        for gate, sink in zip(gates, sinks, strict=True):
            exports.append(await stack.enter_async_context(running(drained(source, sink))))
            await asyncio.wait_for(gate.reached.wait(), WAIT)
        await eventually(plain, f"count(*) = 4 {OURS}")
        for gate in gates:
            gate.opened.set()
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*exports)
        for sink in sinks:
            assert_conforms(sink.received, kept.wide)


async def drained(source: Source, sink: SinkAfter) -> None:
    async with source.open(WIDE) as rows:
        sink.received.total = await rows.drain(sink.take)


async def test_an_export_without_a_spare_connection_runs_on_its_own(database: str, plain: Plain, kept: Kept) -> None:
    async with pooled(database, size=2) as pool, AsyncExitStack() as stack:
        source = Source(
            Connections(pool, leaders=2, workers=WORKERS),
            await read_catalog(pool, ["kept.wide"]),
            CursorChoice.BLOCKS,
            reading=WIDE_RANGES,
        )
        gate = Gate()
        sink = SinkAfter(gate.wait, 10 * MB)
        export = await stack.enter_async_context(running(drained(source, sink)))
        await asyncio.wait_for(gate.reached.wait(), WAIT)
        assert await plain.fetchval(f"SELECT count(*) {OURS}") == 1
        other = SinkAfter(stop)
        await asyncio.wait_for(drained(source, other), WAIT)
        gate.opened.set()
        await asyncio.wait_for(export, WAIT)
        assert_conforms(sink.received, kept.wide)
        assert_conforms(other.received, kept.wide)


def spare(connections: Connections) -> int:
    """Returns the number of spare connections at this moment."""
    with ExitStack() as stack:
        return sum(1 for _ in iter(lambda: stack.enter_context(connections.try_reserve()), False))


@pytest.mark.parametrize("ending", ["well", "by its sink", "cancelled", "without its lead", "after a lost worker"])
async def test_spare_connections_are_returned_after_any_end_of_an_export(
    database: str, plain: Plain, ending: str
) -> None:
    async with pooled(database, size=4) as pool:
        source = Opened(pool, await read_catalog(pool, ["kept.wide"]), CursorChoice.BLOCKS, **quick(WIDE_RANGES))
        connections = source.connections
        gate = Gate()
        taken: list[int] = []

        async def act() -> None:
            await eventually(plain, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}")
            taken.append(spare(connections))
            match ending:
                case "by its sink":
                    await stop()
                case "cancelled":
                    await gate.wait()
                case "without its lead":
                    await terminate(plain, LEADER_SESSION)
                case "after a lost worker":
                    await terminate(plain, f"{WORKER_SESSIONS} AND {FULL}")

        assert spare(connections) == 3
        async with running(drained(source.source, SinkAfter(act, 100))) as export:
            if ending == "cancelled":
                await asyncio.wait_for(gate.reached.wait(), WAIT)
                export.cancel()
            await asyncio.wait({export}, timeout=WAIT)
            assert export.done()
        assert taken == [3 - WORKERS]
        assert spare(connections) == 3


# Ends of an export on this side


@dataclass(frozen=True)
class Stage:
    """A moment of an export of `kept.wide`: so many bytes are received, and both conditions hold."""

    bytes: int
    condition: str = "true"
    held: int = 0  # bytes of ranges out of order
    hold_limit: int = 128 * KB


STAGES = {
    "header": Stage(1),
    "first_rows": Stage(100),
    "midway": Stage(12 * MB),
    "workers_at_the_hold_limit": Stage(100, f"count(*) = {WORKERS} {WORKER_SESSIONS} AND {FULL}"),
    "later_ranges_held_as_a_whole": Stage(100, held=WORKERS * WIDE_RANGE - 40 * KB, hold_limit=64 * MB),
}


@dataclass(frozen=True)
class Reach:
    """How an export reads that comes to a stage, and the sink that acts then."""

    stage: Stage
    reading: BlockReading
    begun: Sequence[ReorderBuffer]  # the buffers of the exports of this test
    plain: Plain

    def sink(self, act: Act) -> SinkAfter:
        async def act_then() -> None:
            await eventually(self.plain, self.stage.condition)
            await until(
                lambda: not self.begun or self.begun[-1].held >= self.stage.held, "enough later ranges are held"
            )
            await act()

        return SinkAfter(act_then, self.stage.bytes)


@pytest.fixture(params=STAGES)
def reach(request: pytest.FixtureRequest, plain: Plain) -> Reach:
    stage, begun = STAGES[request.param], list[ReorderBuffer]()

    class Seen(ReorderBuffer):
        def __init__(self, sink: Sink, limit: int) -> None:
            super().__init__(sink, limit)
            begun.append(self)

    return Reach(stage, replace(WIDE_RANGES, hold_limit=stage.hold_limit, buffer=Seen), begun, plain)


async def test_an_export_cancelled_at_any_stage_leaves_nothing_behind(
    database: str, plain: Plain, kept: Kept, reach: Reach
) -> None:
    gate = Gate()
    async with opened(database, CursorChoice.BLOCKS, "kept.wide", reading=reach.reading) as source:
        async with running(source.drain(WIDE, reach.sink(gate.wait).take)) as exporting:
            await asyncio.wait_for(gate.reached.wait(), 2 * WAIT)
            exporting.cancel()
            await asyncio.wait({exporting}, timeout=WAIT)
            assert exporting.cancelled()
        await assert_recovered(source, plain, kept)


async def test_a_sink_that_fails_at_any_stage_leaves_nothing_behind(
    database: str, plain: Plain, kept: Kept, reach: Reach
) -> None:
    async with opened(database, CursorChoice.BLOCKS, "kept.wide", reading=reach.reading) as source:
        sink = reach.sink(stop)
        with pytest.raises(Stop):
            await source.drain(WIDE, sink.take)
        assert kept.wide.startswith(sink.received.body)
        await assert_recovered(source, plain, kept)


class SinkOfTasks:
    """A sink that waits until a worker reads, and raises once, when a second task calls it.

    The first rows are the leader's, so the second task is a worker.
    """

    def __init__(self, plain: Plain, error: Exception) -> None:
        self._plain = plain
        self._error = error
        self._tasks: set[asyncio.Task[object] | None] = set()

    async def take(self, chunk: bytes | bytearray, rows: int) -> None:
        if rows and not self._tasks:
            await eventually(self._plain, WORKER_READS)
        if rows and len(self._tasks) < 2:
            self._tasks.add(asyncio.current_task())
            if len(self._tasks) == 2:
                raise self._error


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), TimeoutError("the disk"), Stop()],
    ids=lambda it: type(it).__name__,
)
async def test_a_failure_of_the_sink_is_not_one_of_the_worker_that_called_it(
    database: str, plain: Plain, error: Exception
) -> None:
    one_byte = replace(SMALL_RANGES, hold_limit=1)
    async with opened(database, CursorChoice.BLOCKS, "kept.mixed", **quick(one_byte)) as source:
        with pytest.raises(type(error)) as raised:
            await source.drain(MIXED, SinkOfTasks(plain, error).take)
        assert raised.value is error


async def test_a_sink_that_cancels_itself_never_completes_an_export(database: str) -> None:
    async def be_cancelled() -> None:
        raise asyncio.CancelledError

    async with (
        opened(database, CursorChoice.BLOCKS, "kept.mixed", **quick(SMALL_RANGES)) as source,
        running(source.drain(MIXED, SinkAt(1, be_cancelled).take)) as exporting,
    ):
        await asyncio.wait({exporting}, timeout=WAIT)
        assert exporting.done()
        assert exporting.cancelled() or isinstance(exporting.exception(), ExportFailure)


# Any size of ranges, any hold limit, any number of workers


sizes = st.one_of(st.just(1), st.integers(1, 300), st.integers(300, 300 * KB), st.just(8 * MB))
pauses = st.lists(st.sampled_from([None, None, 0, 0.001]), min_size=1, max_size=8)


@dataclass(frozen=True)
class Trial:
    hold: int
    target: int
    first_blocks: int
    workers: int
    pauses: list[float | None]


trials = st.builds(
    Trial, hold=sizes, target=sizes, first_blocks=st.integers(1, 64), workers=st.integers(0, 3), pauses=pauses
)


@given(trial=trials)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_any_ranges_any_hold_limit_and_any_workers_produce_the_same_bytes(
    database: str, plain: Plain, trial: Trial
) -> None:
    most_held = 0

    class Watched(ReorderBuffer):
        async def put(self, block_range: BlockRange, chunk: bytes | bytearray, rows: int) -> None:
            nonlocal most_held
            await super().put(block_range, chunk, rows)
            most_held = max(most_held, self.held)

    received, next_pause = Received(), cycle(trial.pauses)

    async def take(chunk: bytes | bytearray, rows: int) -> None:
        await received.take(chunk, rows)
        pause = next(next_pause)
        if pause is not None:
            await asyncio.sleep(pause)

    reading = BlockReading(
        min_blocks=1,
        first_blocks=trial.first_blocks,
        range_target=trial.target,
        hold_limit=trial.hold,
        buffer=Watched,
    )
    async with pooled(database, size=1 + trial.workers) as pool:
        catalog = await read_catalog(pool, [MIXED.dataset])
        connections = Connections(pool, leaders=1, workers=trial.workers)
        source = Source(connections, catalog, CursorChoice.BLOCKS, reading=reading)
        async with source.open(MIXED) as rows:
            received.total = await rows.drain(take)
            assert rows.expected == received.total
    assert_conforms(received, await copied(plain, "SELECT n, words FROM kept.mixed"))
    assert most_held <= trial.workers * trial.hold


# Progress


STATISTICS = {
    "none": "SELECT",
    "right": "ANALYZE shape",
    "far_too_many": "ANALYZE shape; UPDATE pg_class SET reltuples = 1e9 WHERE oid = 'shape'::regclass",
    "far_too_few": "ANALYZE shape; UPDATE pg_class SET reltuples = 1 WHERE oid = 'shape'::regclass",
    "of_another_time": "ANALYZE shape; INSERT INTO shape SELECT -n, 'new' FROM generate_series(1, 9000) n",
}


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("statistics", STATISTICS)
async def test_the_expected_rows_begin_as_the_plan_and_end_exact(
    database: str, plain: Plain, statistics: str, filtered: bool
) -> None:
    await plain.execute(TABLE)
    await plain.execute(STATISTICS[statistics])
    where = " WHERE n > 4000" if filtered else ""
    conditions = [above("n", 4000)] if filtered else []
    plan = json.loads(await plain.fetchval(f"EXPLAIN (FORMAT JSON) SELECT n FROM shape{where}"))
    async with (
        opened(database, CursorChoice.BLOCKS, "shape", reading=SMALL_RANGES) as source,
        source.source.open(spec("shape", ["n"], *conditions)) as rows,
    ):
        assert rows.expected == plan[0]["Plan"]["Plan Rows"]
        seen: list[int] = []

        async def take(chunk: bytes | bytearray, count: int) -> None:
            seen.append(rows.expected)

        total = await rows.drain(take)
        assert rows.expected == total == await plain.fetchval(f"SELECT count(*) FROM shape{where}")
        assert seen[0] == plan[0]["Plan"]["Plan Rows"]
        assert min(seen) >= 0


async def test_an_empty_table_has_no_expected_rows(database: str, plain: Plain) -> None:
    await plain.execute("CREATE TABLE shape (n int)")
    async with (
        opened(database, CursorChoice.BLOCKS, "shape") as source,
        source.source.open(spec("shape", ["n"])) as rows,
    ):
        assert rows.expected == 0
        assert await rows.drain(Received().take) == 0
        assert rows.expected == 0


async def test_a_snapshot_of_the_same_name_on_another_server_is_refused(database: str) -> None:
    """A worker may reach another replica, whose snapshots have the same small numbers as names."""
    async with pooled(database) as pool, open_snapshot(pool, role=None) as leader:
        exported = await export_snapshot(leader.connection)
        async with open_snapshot(pool, exported, role=None) as same:
            assert await same.connection.fetchval("SELECT 1") == 1
        with pytest.raises(SnapshotGoneError, match="another server"):
            async with open_snapshot(pool, replace(exported, identity="another"), role=None):
                pytest.fail("it was taken")
