"""Rows of megabytes: allowed ones are exported by every cursor byte for byte, larger ones fail their export alone.

PostgreSQL sends a row as one message, so the size of a row decides how much memory an export needs. The rows are
TOASTed rows of a real database; the reference is COPY on a plain connection.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio

from streamer.config import Size
from streamer.source.source import CursorChoice
from tests.conftest import connected
from tests.held import SMALL, Held, HeldExport, Serve, gated_servers, scratch_database, settled
from tests.integration.sources import assert_same_bytes, copied, every_cursor, plain_session
from tests.polling import until
from tests.rawhttp import End, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1024 * 1024
LIMIT = 2 * MB
ROW_TOO_LARGE = "a row is larger than 2048 kB, the most that MAX_ROW_SIZE allows"
ROWS_TOO_LARGE = "rows that FETCH gave together are larger than 2048 kB, the most that MAX_ROW_SIZE allows"
SENTENCES = {
    CursorChoice.BLOCKS: ROW_TOO_LARGE,
    CursorChoice.COPY: ROW_TOO_LARGE,
    CursorChoice.FETCH: ROWS_TOO_LARGE,
}

PARTITIONS = 60
TABLES = f"""
    CREATE TABLE megabytes AS
        SELECT n AS id, repeat(md5(n::text), 31000) || E'"quoted",\\n' AS text FROM generate_series(1, 8) AS n;

    CREATE TABLE allowed AS SELECT n AS id, repeat(md5(n::text), 59000) AS text FROM generate_series(1, 3) AS n;

    CREATE TABLE huge AS SELECT n AS id, repeat(md5(n::text), 30) AS text FROM generate_series(1, 3000) AS n;
    UPDATE huge SET text = repeat('0123456789abcdef', {20 * MB // 16}) WHERE id = 2000;

    CREATE TABLE files (id int, content bytea);
    ALTER TABLE files ALTER content SET STORAGE EXTERNAL;
    INSERT INTO files SELECT n, decode(repeat(md5(n::text), 20000), 'hex') FROM generate_series(1, 6) AS n;

    CREATE TABLE large_files (LIKE files INCLUDING STORAGE);
    INSERT INTO large_files SELECT n, decode(repeat(md5(n::text), 100000), 'hex') FROM generate_series(1, 2) AS n;

    CREATE TABLE sudden AS
        SELECT n AS id, CASE WHEN n <= 3000 THEN 'narrow' ELSE repeat(md5(n::text), 3000) END AS text
        FROM generate_series(1, 3100) AS n;

    CREATE TABLE parts (id int, {", ".join(f"a_column_with_a_long_name_{n} text" for n in range(30))})
        PARTITION BY LIST (id);
    DO $$
    BEGIN
        FOR n IN 1..{PARTITIONS} LOOP
            EXECUTE format('CREATE TABLE parts_%s PARTITION OF parts FOR VALUES IN (%s)', n, n);
        END LOOP;
    END $$;
    INSERT INTO parts SELECT n FROM generate_series(1, {PARTITIONS}) AS n;

    ANALYZE;
"""
DATASETS = ("megabytes", "allowed", "huge", "files", "large_files", "sudden", "parts", SMALL.name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[str]:
    async with scratch_database(postgres) as url:
        async with connected(url) as connection:
            await connection.execute(TABLES)
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serve]:
    async with gated_servers(database, tmp_path_factory, DATASETS) as start:
        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def serve(servers: Serve) -> AsyncIterator[Serve]:
    async with settled(servers) as start:
        yield start


async def begun(held: Held, dataset: str) -> HeldExport:
    created = await ask(held.url, "POST", f"/exports/csv?dataset={dataset}")
    assert created.status == 202, created.body
    return HeldExport(held, SMALL, created.json()["exportId"])


async def exported(held: Held, dataset: str) -> bytes:
    export = await begun(held, dataset)
    await export.becomes("completed")
    return (await ask(held.url, "GET", export.download)).body


async def failure(held: Held, dataset: str) -> str:
    """Returns the error of an export that fails, and checks its status and a download."""
    export = await begun(held, dataset)
    await export.becomes("failed")
    error: str = (await export.status())["error"]
    refused = await ask(held.url, "GET", export.download)
    assert refused.status == 409
    assert error in refused.json()["detail"]
    return error


async def expected(database: str, dataset: str) -> bytes:
    async with plain_session(database) as connection:
        return await copied(connection, f"SELECT * FROM {dataset}")


@every_cursor
@pytest.mark.parametrize("dataset", ["megabytes", "files"])
async def test_rows_of_a_megabyte_are_the_same_by_every_cursor(
    serve: Serve, database: str, choice: CursorChoice, dataset: str
) -> None:
    held = await serve(export_method=choice)
    assert_same_bytes(await exported(held, dataset), await expected(database, dataset))


@pytest.mark.parametrize(
    "choice",
    [
        CursorChoice.BLOCKS,
        CursorChoice.COPY,
        CursorChoice.FETCH,
    ],
)
async def test_rows_just_below_the_limit_are_allowed(serve: Serve, database: str, choice: CursorChoice) -> None:
    held = await serve(export_method=choice)
    export = await begun(held, "allowed")
    await has_ended(export)
    assert (await export.status())["error"] is None
    body = (await ask(held.url, "GET", export.download)).body
    assert_same_bytes(body, await expected(database, "allowed"))


async def has_ended(export: HeldExport) -> None:
    async def ended() -> bool:
        return (await export.status())["status"] in ("completed", "failed")

    await until(ended, "the export does not end")


@every_cursor
@pytest.mark.parametrize("dataset", ["huge", "large_files"])
async def test_a_row_that_is_too_large_fails_its_export_with_a_sentence(
    serve: Serve, choice: CursorChoice, dataset: str
) -> None:
    held = await serve(export_method=choice)
    assert await failure(held, dataset) == SENTENCES[choice]
    await held.gates.nobody_works()


@pytest.mark.parametrize("choice", [CursorChoice.AUTO, CursorChoice.COPY, CursorChoice.FETCH])
async def test_an_export_beside_one_with_a_row_too_large_completes(serve: Serve, choice: CursorChoice) -> None:
    held = await serve(export_method=choice)
    await held.shut()
    await held.open(2)
    beside = await begun(held, SMALL.name)
    await beside.becomes("processing")
    assert "MAX_ROW_SIZE" in await failure(held, "huge")
    assert (await beside.status())["status"] == "processing"
    await held.open()
    await beside.becomes("completed")
    assert (await ask(held.url, "GET", beside.download)).body == SMALL.whole


@every_cursor
async def test_connections_are_usable_after_rows_that_were_too_large(
    serve: Serve, database: str, choice: CursorChoice
) -> None:
    held = await serve(export_method=choice, max_concurrent_exports=2)
    errors = await asyncio.gather(*(failure(held, "huge") for _ in range(6)))
    assert set(errors) == {SENTENCES[choice]}
    bodies = await asyncio.gather(*(exported(held, "megabytes") for _ in range(4)))
    for body in bodies:
        assert_same_bytes(body, await expected(database, "megabytes"))
    await held.gates.nobody_works()
    assert (await ask(held.url, "GET", "/health")).status == 200


@every_cursor
async def test_a_follower_of_a_failed_export_sees_a_truncated_body_without_wrong_bytes(
    serve: Serve, database: str, choice: CursorChoice
) -> None:
    held = await serve(export_method=choice)
    async with connection(held.url) as follower:
        await follower.send("GET", "/exports/csv?dataset=huge")
        head, body = await follower.begin()
        assert head.status == 200
        assert await body.finish() is not End.WHOLE
    intact = (await expected(database, "huge")).startswith(body.received)
    assert intact
    assert b"MAX_ROW_SIZE" not in body.received


@contextmanager
def peak() -> Iterator[list[int]]:
    """How many bytes of memory more than at the beginning were in use at once."""
    found: list[int] = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield found
        found.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


@every_cursor
async def test_a_row_too_large_is_never_held_in_memory(serve: Serve, choice: CursorChoice) -> None:
    """20 MB of it are on their way. The limit may be held twice on each of two connections."""
    held = await serve(export_method=choice)
    with peak() as most:
        assert "MAX_ROW_SIZE" in await failure(held, "huge")
    assert most[0] < 4 * LIMIT + 4 * MB


@pytest.mark.parametrize("choice", [CursorChoice.AUTO, CursorChoice.COPY, CursorChoice.FETCH])
async def test_a_larger_limit_allows_a_larger_row(serve: Serve, database: str, choice: CursorChoice) -> None:
    held = await serve(export_method=choice, max_row_size=Size(30 * MB))
    assert_same_bytes(await exported(held, "huge"), await expected(database, "huge"))


@pytest.mark.parametrize("choice", [CursorChoice.AUTO, CursorChoice.COPY])
async def test_many_rows_may_together_be_larger_than_one_may_be(
    serve: Serve, database: str, choice: CursorChoice
) -> None:
    held = await serve(export_method=choice, max_row_size=Size(256 * 1024))
    assert_same_bytes(await exported(held, "sudden"), await expected(database, "sudden"))


async def test_rows_that_are_suddenly_wide_fail_a_fetch_with_a_sentence_of_its_own(serve: Serve, database: str) -> None:
    """FETCH asked for hundreds of rows, because those before were narrow; each alone would be allowed."""
    held = await serve(export_method=CursorChoice.FETCH)
    async with connection(held.url) as follower:
        await follower.send("GET", "/exports/csv?dataset=sudden")
        head, body = await follower.begin()
        assert await body.finish() is not End.WHOLE
    intact = (await expected(database, "sudden")).startswith(body.received)
    assert intact
    export = HeldExport(held, SMALL, head["X-Export-Id"])
    assert (await export.status())["status"] == "failed"
    assert (await export.status())["error"] == ROWS_TOO_LARGE


@every_cursor
async def test_a_plan_may_be_larger_than_a_row(serve: Serve, database: str, choice: CursorChoice) -> None:
    """A plan names every partition and all of its columns: with 2 MB it is the 2,000 partitions of some years."""
    held = await serve(export_method=choice, max_row_size=Size(64 * 1024))
    export = await begun(held, "parts")
    await has_ended(export)
    assert (await export.status())["error"] is None
    assert_same_bytes((await ask(held.url, "GET", export.download)).body, await expected(database, "parts"))
