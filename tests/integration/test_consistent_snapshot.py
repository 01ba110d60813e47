"""Every export is of one state of the database, whatever commits while it begins: deterministic cases.

A migration holds its locks, an export begins and waits for them, and then the migration commits. A change that
PostgreSQL allows without a lock is timed in the planning of the export: a row policy calls a function that the planner
evaluates, which waits for an advisory lock.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from streamer.config import Names
from streamer.errors import ExportFailure, SourceBusy, SourceWait
from streamer.model import Dialect, ExportSpec, Timestamps
from streamer.source.catalog.introspection import read_catalog
from streamer.source.source import CursorChoice
from tests.conftest import Serve, connected, made_database
from tests.exporting import create
from tests.integration.sources import (
    WAIT,
    Opened,
    Plain,
    Received,
    SinkAt,
    cursors_of_views,
    entered_as,
    eventually,
    every_cursor,
    numbers,
    opened,
    plain_session,
    pooled,
    running,
    spec,
)

ROWS = 1_500  # of a kilobyte: enough blocks for several connections
GATE = 23  # an advisory lock
WAITING = """EXISTS (
    SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE datname = current_database() AND application_name = 'streamer' AND NOT granted)"""
MADE_GATE = f"""
    CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN true; END $$
"""


def made(table: str, *, rows: int = ROWS, first: int = 1) -> str:
    return f"CREATE TABLE {table} (n integer, filling text); {filled(table, rows=rows, first=first)}"


def filled(table: str, *, rows: int = ROWS, first: int = 1) -> str:
    last = first + rows - 1
    return f"INSERT INTO {table} SELECT n, repeat('x', 1000) FROM generate_series({first}, {last}) AS n"


@pytest.fixture(scope="module")
def shared_database(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        yield url


@pytest.fixture
async def database(shared_database: str) -> str:
    """The URL of an empty database: to clear one is quicker than to make one."""
    async with connected(shared_database) as connection:
        await connection.execute("DROP SCHEMA IF EXISTS public, aside, streamer CASCADE")
        await connection.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")
    return shared_database


@pytest.fixture
async def migration(database: str) -> AsyncIterator[Plain]:
    """The session of a migration."""
    async with plain_session(database) as connection:
        yield connection


async def export(source: Opened, wanted: ExportSpec) -> Received:
    """Exports as a job does, which retries if the source must be waited for."""
    async with asyncio.timeout(WAIT):
        while True:
            try:
                return await source.export(wanted)
            except SourceWait:
                await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Meanwhile:
    """An export that begins while a migration is open."""

    url: str
    plain: Plain
    migration: Plain
    role: str

    def as_role(self, choice: CursorChoice, dataset: str) -> AbstractAsyncContextManager[Opened]:
        """The source of a pool that has logged in as the role."""
        return opened(entered_as(self.url, self.role), choice, dataset)

    async def exported(self, source: Opened, wanted: ExportSpec, *statements: str) -> Received:
        """The migration commits once the export waits for it."""
        await self.migration.execute("BEGIN")
        for statement in statements:
            await self.migration.execute(statement)
        async with running(export(source, wanted)) as exporting:
            await eventually(self.plain, WAITING)
            await self.migration.execute("COMMIT")
            return await exporting

    async def planned(self, source: Opened, wanted: ExportSpec, *statements: str) -> Received:
        """The migration begins and commits while the export is being planned at the gate."""
        await self.plain.execute(f"SELECT pg_advisory_lock({GATE})")
        async with running(export(source, wanted)) as exporting:
            await eventually(self.plain, WAITING)
            await self.migration.execute("BEGIN; " + "; ".join(statements) + "; COMMIT")
            await self.plain.execute(f"SELECT pg_advisory_unlock({GATE})")
            return await exporting


@pytest.fixture
def meanwhile(database: str, plain: Plain, migration: Plain, role: str) -> Meanwhile:
    return Meanwhile(database, plain, migration, role)


# Reloads


@every_cursor
async def test_a_reloaded_table_is_exported_completely(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(made("reloaded", rows=10))
    async with opened(database, choice, "reloaded") as source:
        found = await meanwhile.exported(source, spec("reloaded", ["n"]), "TRUNCATE reloaded", filled("reloaded"))
    assert found.body == numbers(ROWS)


@every_cursor
@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE reloaded", made("reloaded")],
        [made("coming"), "ALTER TABLE reloaded RENAME TO gone", "ALTER TABLE coming RENAME TO reloaded"],
        ["ALTER TABLE reloaded SET SCHEMA aside", made("reloaded")],
        ["TRUNCATE reloaded", filled("reloaded"), "ALTER TABLE reloaded ALTER n TYPE bigint"],
    ],
    ids=["drop and create", "rename", "set schema", "another type"],
)
async def test_a_table_that_replaces_another_is_exported_completely(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice, statements: Sequence[str]
) -> None:
    await plain.execute(f"CREATE SCHEMA aside; {made('reloaded', rows=10)}")
    async with opened(database, choice, "reloaded") as source:
        found = await meanwhile.exported(source, spec("reloaded", ["n"]), *statements)
    assert found.body == numbers(ROWS)


async def test_a_snapshot_that_waited_for_its_lock_is_the_only_one(
    database: str, plain: Plain, meanwhile: Meanwhile, caplog: pytest.LogCaptureFixture
) -> None:
    """The lock spares a second snapshot: the reload commits while the first has not been taken."""
    caplog.set_level(logging.INFO, "streamer.source.source")
    await plain.execute(made("reloaded", rows=10))
    async with opened(database, CursorChoice.COPY, "reloaded") as source:
        await meanwhile.exported(source, spec("reloaded", ["n"]), "TRUNCATE reloaded", filled("reloaded"))
    assert not caplog.records


@cursors_of_views
async def test_a_reloaded_table_below_a_view_is_exported_completely(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"{made('reloaded', rows=10)}; CREATE VIEW over AS SELECT n FROM reloaded")
    async with opened(database, choice, "over") as source:
        found = await meanwhile.exported(source, spec("over", ["n"]), "TRUNCATE reloaded", filled("reloaded"))
    assert found.body == numbers(ROWS)


MADE_PARTS = f"""
    CREATE TABLE parted (n integer, filling text) PARTITION BY RANGE (n);
    CREATE TABLE low PARTITION OF parted FOR VALUES FROM (1) TO (1000);
    CREATE TABLE high PARTITION OF parted FOR VALUES FROM (1000) TO (2000);
    {filled("parted")}
"""


@every_cursor
async def test_a_partition_that_is_reloaded_is_exported_with_the_others(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(MADE_PARTS)
    async with opened(database, choice, "parted") as source:
        found = await meanwhile.exported(
            source, spec("parted", ["n"]), "TRUNCATE high", filled("high", first=1000, rows=501)
        )
    assert found.body == numbers(ROWS)


@cursors_of_views
async def test_rows_that_move_to_a_partition_that_is_attached_are_exported_once(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"""
        {MADE_PARTS}; {MADE_GATE}; {made("highest", first=2001, rows=300)};
        CREATE POLICY held_up ON parted USING (gate()); ALTER TABLE parted ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON parted TO {meanwhile.role}
    """)
    async with meanwhile.as_role(choice, "parted") as source:
        found = await meanwhile.planned(
            *(source, spec("parted", ["n"]), "DELETE FROM high WHERE n > 1200"),
            "ALTER TABLE parted ATTACH PARTITION highest FOR VALUES FROM (2000) TO (3000)",
        )
    after = numbers(1200) + b"".join(b"%d\n" % n for n in range(2001, 2301))
    assert found.body in (numbers(ROWS), after)


@cursors_of_views
async def test_rows_that_move_to_a_table_that_inherits_are_exported_once(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"""
        {made("parent", rows=10)}; {MADE_GATE}; {made("child", first=6, rows=5)};
        CREATE POLICY held_up ON parent USING (gate()); ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON parent TO {meanwhile.role}
    """)
    async with meanwhile.as_role(choice, "parent") as source:
        found = await meanwhile.planned(
            *(source, spec("parent", ["n"])),
            *("DELETE FROM parent WHERE n > 5", "ALTER TABLE child INHERIT parent"),
        )
    assert found.body == numbers(10)


@cursors_of_views
async def test_rows_that_move_twice_to_tables_that_inherit_are_exported_once(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    """The second change happens while the export takes another snapshot because of the first."""
    await plain.execute(f"""
        {made("parent", rows=10)}; {MADE_GATE}; {made("child", first=6, rows=3)}; {made("other", first=9, rows=2)};
        CREATE TABLE eldest () INHERITS (parent);
        CREATE POLICY held_up ON parent USING (gate()); ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON parent TO {meanwhile.role}
    """)
    shut = f"SELECT pg_advisory_lock({GATE})"
    async with meanwhile.as_role(choice, "parent") as source, plain_session(meanwhile.url) as keeper:
        await plain.execute(shut)
        async with running(export(source, spec("parent", ["n"]))) as exporting:
            await eventually(plain, WAITING)
            await meanwhile.migration.execute(
                "DELETE FROM parent WHERE n IN (6, 7, 8); ALTER TABLE child INHERIT parent"
            )
            async with running(keeper.execute(shut)) as next_in_the_queue:
                await eventually(plain, "(SELECT count(*) > 1 FROM pg_locks WHERE NOT granted)")
                await plain.execute(f"SELECT pg_advisory_unlock({GATE})")
                await next_in_the_queue
            await eventually(plain, WAITING)
            await meanwhile.migration.execute("DELETE FROM parent WHERE n > 8; ALTER TABLE other INHERIT parent")
            await keeper.execute(f"SELECT pg_advisory_unlock({GATE})")
            found = await exporting
    assert sorted(found.body.splitlines()) == sorted(numbers(10).splitlines())


@cursors_of_views
@pytest.mark.parametrize("how", ["", "CONCURRENTLY"])
async def test_rows_that_return_from_a_detached_partition_are_exported_once(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice, how: str
) -> None:
    """DETACH waits for readers of the parent, CONCURRENTLY too; the other migration has committed before."""
    await plain.execute(f"""
        {MADE_PARTS}; {MADE_GATE};
        CREATE POLICY held_up ON parted USING (gate()); ALTER TABLE parted ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON parted TO {meanwhile.role}
    """)
    async with meanwhile.as_role(choice, "parted") as source:
        await plain.execute(f"SELECT pg_advisory_lock({GATE})")
        async with running(export(source, spec("parted", ["n"]))) as exporting:
            await eventually(plain, WAITING)
            detaching = meanwhile.migration.execute(f"ALTER TABLE parted DETACH PARTITION high {how}")
            async with running(detaching) as detached:
                await eventually(plain, "(SELECT count(*) > 1 FROM pg_locks WHERE NOT granted)")
                await plain.execute(f"SELECT pg_advisory_unlock({GATE})")
                found = await exporting
                await detached
    assert found.body in (numbers(ROWS), numbers(999))


@cursors_of_views
async def test_a_refreshed_materialized_view_is_exported_completely(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"{made('base', rows=10)}; CREATE MATERIALIZED VIEW stored AS SELECT n FROM base")
    async with opened(database, choice, "stored") as source:
        found = await meanwhile.exported(
            source, spec("stored", ["n"]), "TRUNCATE base", filled("base"), "REFRESH MATERIALIZED VIEW stored"
        )
    assert found.body == numbers(ROWS)


@every_cursor
async def test_a_table_with_column_privileges_is_exported_completely(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"{made('granted', rows=10)}; GRANT SELECT (n) ON granted TO {meanwhile.role}")
    if choice is CursorChoice.BLOCKS:
        choice = CursorChoice.AUTO  # blocks are for a role that may read the whole table
    async with meanwhile.as_role(choice, "granted") as source:
        found = await meanwhile.exported(source, spec("granted", ["n"]), "TRUNCATE granted", filled("granted"))
    assert found.body == numbers(ROWS)


@cursors_of_views
async def test_a_table_that_only_a_policy_reads_is_as_old_as_the_rows(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"""
        {made("guarded", rows=10)}; CREATE TABLE allowed AS SELECT 3 AS n;
        CREATE POLICY some_rows ON guarded USING (n IN (SELECT n FROM allowed));
        ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT SELECT ON guarded, allowed TO {meanwhile.role}
    """)
    async with meanwhile.as_role(choice, "guarded") as source:
        found = await meanwhile.exported(
            source, spec("guarded", ["n"]), "TRUNCATE allowed", "INSERT INTO allowed VALUES (4), (5)"
        )
    assert found.body == b"n\n4\n5\n"


# Definitions of relations that may not be locked


MADE_PART_READABLE = f"{made('base', rows=10)}; CREATE VIEW seen AS SELECT n, filling FROM base WHERE n <= 5"


@cursors_of_views
async def test_a_redefined_view_does_not_export_rows_that_were_deleted_before(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"{MADE_PART_READABLE}; GRANT SELECT (n) ON seen TO {meanwhile.role}")
    async with meanwhile.as_role(choice, "seen") as source:
        found = await meanwhile.exported(
            *(source, spec("seen", ["n"]), "DELETE FROM base WHERE n > 5"),
            "CREATE OR REPLACE VIEW seen AS SELECT n, filling FROM base",
        )
    assert found.body == numbers(5)


@cursors_of_views
@pytest.mark.parametrize(
    "opening",
    [
        "CREATE POLICY everything ON guarded USING (true)",
        "ALTER POLICY some_rows ON guarded USING (true)",
        "DROP POLICY some_rows ON guarded; CREATE POLICY other_rows ON guarded USING (true)",
        "ALTER TABLE guarded DISABLE ROW LEVEL SECURITY",
    ],
)
async def test_a_widened_policy_does_not_export_rows_that_were_deleted_before(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice, opening: str
) -> None:
    await plain.execute(f"""
        {made("guarded", rows=10)}; CREATE POLICY some_rows ON guarded USING (n <= 5);
        ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT SELECT (n) ON guarded TO {meanwhile.role}
    """)
    async with meanwhile.as_role(choice, "guarded") as source:
        found = await meanwhile.exported(source, spec("guarded", ["n"]), "DELETE FROM guarded WHERE n > 5", opening)
    assert found.body == numbers(5)


@cursors_of_views
async def test_a_view_that_only_a_policy_reads_is_as_old_as_the_rows(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    """The role may lock the table, which does not lock the relations that its policy reads."""
    await plain.execute(f"""
        {made("guarded", rows=10)}; CREATE TABLE allowed_from AS SELECT n FROM generate_series(3, 4) n;
        CREATE VIEW allowed AS SELECT n FROM allowed_from WHERE n = 3;
        CREATE POLICY some_rows ON guarded USING (n IN (SELECT n FROM allowed));
        ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT SELECT ON guarded, allowed TO {meanwhile.role}
    """)
    async with meanwhile.as_role(choice, "guarded") as source:
        found = await meanwhile.exported(
            *(source, spec("guarded", ["n"]), "DELETE FROM allowed_from WHERE n = 4"),
            "CREATE OR REPLACE VIEW allowed AS SELECT n FROM allowed_from",
        )
    assert found.body == b"n\n3\n"


@cursors_of_views
async def test_a_new_column_with_a_default_is_not_read_from_an_older_snapshot(
    plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute(f"{MADE_PART_READABLE}; GRANT SELECT (n) ON seen TO {meanwhile.role}")
    async with meanwhile.as_role(choice, "seen") as source:
        found = await meanwhile.exported(
            *(source, spec("seen", ["n"]), "ALTER TABLE base ADD COLUMN other integer DEFAULT 7"),
            *("UPDATE base SET other = n", "CREATE OR REPLACE VIEW seen AS SELECT other AS n, filling FROM base"),
        )
    assert found.body == numbers(10)


# Columns


@pytest.fixture
def hiding(tmp_path: Path) -> Path:
    """A file of datasets: of `price`, the column `secret` is hidden."""
    path = tmp_path / "datasets.toml"
    path.write_text('[datasets.price]\nhidden = ["secret"]\n')
    return path


@every_cursor
@pytest.mark.parametrize("gone", ["price", "named_like_a_function"])
async def test_a_dropped_column_does_not_become_the_whole_row_with_hidden_columns(
    database: str, plain: Plain, hiding: Path, choice: CursorChoice, gone: str
) -> None:
    await plain.execute("""
        CREATE TABLE price (id integer, price integer, named_like_a_function integer, secret text);
        INSERT INTO price VALUES (1, 1, 1, 'CANARY');
        CREATE FUNCTION named_like_a_function(price) RETURNS text LANGUAGE sql AS 'SELECT $1.secret'
    """)
    async with pooled(database) as pool:
        source = Opened(pool, await read_catalog(pool, ["price"], file=hiding), choice)
        await plain.execute(f"ALTER TABLE price DROP COLUMN {gone}")
        for _ in range(2):
            with pytest.raises(ExportFailure, match="no longer offered"):
                await export(source, spec("price", ["id", gone]))
        assert (await export(source, spec("price", ["id"]))).body == b"id\n1\n"


@every_cursor
async def test_numbers_that_became_texts_are_escaped_as_texts(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE typed AS SELECT -1 AS value")
    wanted = ExportSpec(dataset="typed", columns=("value",), dialect=Dialect(escape_formulas=True))
    async with opened(database, choice, "typed") as source:
        assert (await export(source, wanted)).body == b"value\n-1\n"
        await plain.execute("ALTER TABLE typed ALTER value TYPE text; UPDATE typed SET value = '=1+1'")
        assert (await export(source, wanted)).body == b"value\n'=1+1\n"


@every_cursor
async def test_timestamps_that_became_texts_and_timestamps_again_are_written_as_timestamps(
    database: str, plain: Plain, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE typed AS SELECT '2024-01-01 00:00:00+00'::timestamptz AS value")
    wanted = ExportSpec(dataset="typed", columns=("value",), dialect=Dialect(timestamps=Timestamps.ISO8601))
    async with opened(database, choice, "typed") as source:
        await plain.execute("ALTER TABLE typed ALTER value TYPE text")
        assert (await export(source, wanted)).body == b"value\n2024-01-01 00:00:00+00\n"
        await plain.execute("ALTER TABLE typed ALTER value TYPE timestamptz USING value::timestamptz")
        assert (await export(source, wanted)).body == b"value\n2024-01-01T00:00:00Z\n"


async def test_a_schema_that_takes_the_name_of_another_between_two_chunks_fails_the_export(
    database: str, plain: Plain
) -> None:
    """The rename of a schema waits for no lock on the tables in it."""
    await plain.execute(f"CREATE SCHEMA aside; {made('aside.moved', rows=4 * ROWS)}")
    swap = "ALTER SCHEMA aside RENAME TO gone; CREATE SCHEMA aside; CREATE TABLE aside.moved (LIKE gone.moved)"
    async with opened(database, CursorChoice.BLOCKS, "aside.moved") as source:
        sink = SinkAt(1, lambda: plain.execute(swap))
        with pytest.raises(SourceBusy):
            await source.drain(spec("aside.moved", ["n", "filling"]), sink.take)
    await plain.execute("DROP SCHEMA gone CASCADE")


# Lock waits, and the time of the snapshot


@cursors_of_views
async def test_a_migration_that_an_export_waits_for_is_not_the_victim_of_a_deadlock(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    """The export has the view and waits for its table, the migration has the table and wants the view."""
    await plain.execute(f"{made('base', rows=10)}; CREATE VIEW over AS SELECT n FROM base")
    async with opened(database, choice, "over") as source:
        await meanwhile.migration.execute("BEGIN; LOCK TABLE base IN ACCESS EXCLUSIVE MODE")
        async with running(export(source, spec("over", ["n"]))) as exporting:
            for _ in range(3):
                await eventually(plain, WAITING)
                await asyncio.sleep(0.3)
            async with asyncio.timeout(WAIT):
                await meanwhile.migration.execute("DROP VIEW over; CREATE VIEW over AS SELECT n FROM base; COMMIT")
            assert (await exporting).body == numbers(10)


async def test_an_export_stops_waiting_for_a_lock_before_the_deadlock_check(
    database: str, plain: Plain, migration: Plain
) -> None:
    await plain.execute(f"{made('base', rows=10)}; CREATE VIEW over AS SELECT n FROM base")
    longest = 0.0
    async with opened(database, CursorChoice.COPY, "base", "over") as source:
        await migration.execute("BEGIN; LOCK TABLE base IN ACCESS EXCLUSIVE MODE")
        for dataset in ("base", "over"):
            async with running(source.export(spec(dataset, ["n"]))) as exporting:
                while not exporting.done():
                    waited = await plain.fetchval(
                        "SELECT max(extract(epoch FROM clock_timestamp() - waitstart)) FROM pg_locks WHERE NOT granted"
                    )
                    longest = max(longest, float(waited or 0))
                with pytest.raises(SourceBusy):
                    await exporting
        await migration.execute("COMMIT")
    assert 0 < longest < 1, "deadlock_timeout is a second"


@every_cursor
async def test_the_snapshot_time_is_not_before_its_rows(
    database: str, plain: Plain, meanwhile: Meanwhile, choice: CursorChoice
) -> None:
    await plain.execute("CREATE TABLE stamped (at timestamptz); INSERT INTO stamped VALUES (now())")
    said: list[datetime] = []

    async def taken(source: Opened) -> Received:
        received = Received()
        async with asyncio.timeout(WAIT), source.source.open(spec("stamped", ["at"])) as rows:
            said.append(rows.snapshot_at)
            await rows.drain(received.take)
        return received

    async with opened(database, choice, "stamped") as source:
        await meanwhile.migration.execute("BEGIN; TRUNCATE stamped")
        async with running(taken(source)) as exporting:
            await eventually(plain, WAITING)
            await meanwhile.migration.execute("INSERT INTO stamped VALUES (clock_timestamp()); COMMIT")
            stamp = datetime.fromisoformat((await exporting).body.decode().splitlines()[1])
    assert said[0] >= stamp


# The catalog


async def test_a_dataset_replaced_while_the_catalog_is_read_is_still_offered(
    database: str, plain: Plain, migration: Plain
) -> None:
    """The reading of the relation before it waits for a lock on a partition."""
    await plain.execute(f"{MADE_PARTS}; {made('replaced', rows=10)}")
    async with opened(database, CursorChoice.COPY, "parted", "replaced") as source:
        await migration.execute("BEGIN; LOCK TABLE low IN ACCESS EXCLUSIVE MODE")
        async with running(source.catalog.reread()) as reading, plain_session(database) as another:
            await eventually(plain, WAITING)
            await another.execute(f"BEGIN; DROP TABLE replaced; {made('replaced', rows=20)}; COMMIT")
            await migration.execute("COMMIT")
            await reading
        assert (await export(source, spec("replaced", ["n"]))).body == numbers(20)


async def test_a_column_that_is_added_is_in_the_next_export_of_all_columns(
    database: str, plain: Plain, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await plain.execute("CREATE TABLE growing AS SELECT 1 AS id")
    server = await serve(source_database_url=database, datasets=Names(("growing",)))
    await plain.execute("ALTER TABLE growing ADD COLUMN more integer DEFAULT 2")
    asked = await create(session, server.url, dataset="growing")
    assert await asked.body() == b"id,more\n1,2\n"


async def test_a_value_that_fits_a_widened_column_is_accepted(
    database: str, plain: Plain, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await plain.execute("CREATE TABLE codes (code varchar(2)); INSERT INTO codes VALUES ('ab')")
    server = await serve(source_database_url=database, datasets=Names(("codes",)))
    await plain.execute("ALTER TABLE codes ALTER code TYPE varchar(3); INSERT INTO codes VALUES ('abc')")
    asked = await create(session, server.url, dataset="codes", code="abc")
    assert await asked.body() == b"code\nabc\n"


async def test_a_short_completed_export_reports_its_snapshot_time(
    database: str, plain: Plain, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await plain.execute("CREATE TABLE short AS SELECT 1 AS n")
    server = await serve(source_database_url=database, datasets=Names(("short",)))
    exports = [await create(session, server.url, dataset="short") for _ in range(40)]
    assert all([(await asked.until("completed"))["snapshotAt"] for asked in exports])
