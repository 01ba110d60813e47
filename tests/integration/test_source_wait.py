"""A source that is away, locked, or without a free connection: exports wait, and keep attempts and order.

The exports table is on another database server than the source, so that the source can be stopped alone.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from streamer.config import Duration, Names
from streamer.embedded import embedded_postgres
from streamer.http.download.live import DownloadTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import Configure, Serve, Server, connected, new_database
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.polling import until
from tests.restarting import BASEBACKUP, OwnPostgres, back_up, own_postgres

pytestmark = pytest.mark.xdist_group("own postgres")  # which is started once
EXPORTS = 12
BODY = "n\n" + "".join(f"{n}\n" for n in range(1, 1001))


@pytest.fixture(scope="module")
def source() -> Iterator[OwnPostgres]:
    with own_postgres() as postgres:
        yield postgres


@pytest.fixture
async def numbers(source: OwnPostgres) -> AsyncIterator[str]:
    """Yields the URL of a database with a table `numbers`."""
    async with new_database(source.url) as url:
        async with connected(url) as connection:
            await connection.execute("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n")
        yield url


@pytest.fixture
async def server(serve: Serve, numbers: str) -> Server:
    return await serve(source_database_url=numbers, datasets=Names(("numbers",)))


async def many(session: aiohttp.ClientSession, server: Server) -> list[RemoteExport]:
    return [await create(session, server.url, dataset="numbers") for _ in range(EXPORTS)]


async def waits_for(export: RemoteExport, what: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def waits() -> bool:
        found.update(await export.status())
        return bool(found["waitingFor"] == what)

    await until(waits, f"export {export.id} waits for {what}")
    return found


async def all_whole(exports: list[RemoteExport]) -> list[dict[str, Any]]:
    """Returns the statuses when all exports are completed, after one attempt each and with the right bytes."""
    statuses = [await export.until("completed") for export in exports]
    assert {status["sha256"] for status in statuses} == {sha256(BODY.encode())}
    assert {(status["attempts"], status["waitingFor"]) for status in statuses} == {(1, None)}
    return statuses


async def test_exports_wait_for_a_source_that_is_stopped_and_keep_their_attempts_and_their_order(
    source: OwnPostgres, server: Server, session: aiohttp.ClientSession
) -> None:
    await source.stop()
    try:
        exports = await many(session, server)
        for export in exports:
            found = await waits_for(export, "source")
            assert found["status"] in {"pending", "processing"}
            assert (found["error"], found["snapshotAt"]) == (None, None)
    finally:
        await source.start()
    statuses = await all_whole(exports)
    begun = [status["startedAt"] for status in statuses]
    assert begun == sorted(begun)


async def test_a_live_client_gets_503_with_retry_after_and_the_export_waits_on(
    source: OwnPostgres,
    configure: Configure,
    numbers: str,
    session: aiohttp.ClientSession,
) -> None:
    tuning = Tuning(downloads=DownloadTimes(source=0.2))
    settings = configure(source_database_url=numbers, datasets=Names(("numbers",)))
    async with serving(settings, tuning=tuning) as url:
        await source.stop()
        try:
            async with session.get(f"{url}/exports/csv", params={"dataset": "numbers"}) as response:
                problem = await read_problem(response, 503)
                assert "source database" in problem["detail"]
                assert int(response.headers["Retry-After"]) > 0
                export = RemoteExport(session, url, response.headers["X-Export-Id"])
                assert response.headers["Content-Location"] == f"{export.id}/download"
            async with session.get(export.download) as response:
                await read_problem(response, 503)
            await waits_for(export, "source")
        finally:
            await source.start()
        await all_whole([export])
        assert await export.body() == BODY.encode()


async def test_an_export_fails_after_the_maximum_wait(
    source: OwnPostgres, serve: Serve, numbers: str, session: aiohttp.ClientSession
) -> None:
    server = await serve(source_database_url=numbers, datasets=Names(("numbers",)), source_wait=Duration(0.5))
    await source.stop()
    try:
        exports = [await create(session, server.url, dataset="numbers") for _ in range(4)]
        for export in exports:
            status = await export.until("failed")
            assert "no snapshot could be taken for" in status["error"]
            assert status["waitingFor"] is None
    finally:
        await source.start()
    await server.holds()
    await all_whole([await create(session, server.url, dataset="numbers")])


@pytest.mark.skipif(not BASEBACKUP.exists(), reason="the embedded PostgreSQL comes without pg_basebackup")
async def test_exports_wait_for_a_failover_to_another_host(serve: Serve, session: aiohttp.ClientSession) -> None:
    with own_postgres() as primary:
        async with connected(primary.url) as connection:
            await connection.execute("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n")
        copy = primary.files.with_name("standby")
        back_up(primary.url, copy, primary.files.stat().st_uid)
        with embedded_postgres(copy) as standby:
            hosts = f"{primary.files},{copy}"
            url = f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=primary"
            server = await serve(source_database_url=url, datasets=Names(("numbers",)))
            await all_whole([await create(session, server.url, dataset="numbers")])
            await primary.stop()
            exports = await many(session, server)
            for export in exports:
                await waits_for(export, "source")
            async with connected(standby) as connection:
                await connection.execute("SELECT pg_promote()")
            await all_whole(exports)


async def test_exports_wait_when_the_role_has_too_few_connections(
    numbers: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    role = f"narrow_{uuid4().hex[:8]}"
    async with connected(numbers) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 3; GRANT SELECT ON numbers TO {role}")
        url = numbers.replace("://postgres", f"://{role}", 1)
        server = await serve(
            source_database_url=url,
            datasets=Names(("numbers",)),
            max_concurrent_exports=8,
        )
        await all_whole(await many(session, server))


async def test_an_export_that_waits_for_a_lock_does_not_block_others(
    numbers: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    async with connected(numbers) as connection, connected(numbers) as other:
        await other.execute("CREATE TABLE others AS TABLE numbers")
        server = await serve(
            source_database_url=numbers, datasets=Names(("numbers", "others")), max_concurrent_exports=1
        )
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("TRUNCATE numbers; INSERT INTO numbers SELECT n FROM generate_series(1, 1000) n")
        locked = await create(session, server.url, dataset="numbers")
        await waits_for(locked, "source")
        await (await create(session, server.url, dataset="others")).until("completed")
        committed = await connection.fetchval("SELECT clock_timestamp()")
        await transaction.commit()
        (status,) = await all_whole([locked])
        assert status["snapshotAt"] > committed.isoformat()


async def test_a_waiting_export_can_be_cancelled_and_is_not_run_afterwards(
    source: OwnPostgres, server: Server, session: aiohttp.ClientSession
) -> None:
    await source.stop()
    try:
        export = await create(session, server.url, dataset="numbers")
        await waits_for(export, "source")
        assert await export.delete() == 204
    finally:
        await source.start()
    await all_whole([await create(session, server.url, dataset="numbers")])
    found = await export.status()
    assert (found["status"], found["waitingFor"]) == ("cancelled", None)


async def test_a_queued_export_shows_that_it_waits_for_a_place(
    numbers: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    async with connected(numbers) as connection:
        await connection.execute(
            """
            CREATE FUNCTION gate(n integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
            BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN n; END $$;
            CREATE VIEW gated AS SELECT gate(n) AS n FROM numbers;
            SELECT pg_advisory_lock(1)
            """
        )
        server = await serve(source_database_url=numbers, datasets=Names(("gated",)), max_concurrent_exports=1)
        running, queued = [await create(session, server.url, dataset="gated") for _ in range(2)]
        await running.until("processing")
        await waits_for(running, None)
        await waits_for(queued, "place")
        await connection.execute("SELECT pg_advisory_unlock(1)")
        await all_whole([running, queued])


async def test_an_export_survives_a_restart_while_the_source_is_locked(
    numbers: str, configure: Configure, session: aiohttp.ClientSession
) -> None:
    settings = configure(source_database_url=numbers, datasets=Names(("numbers",)))
    async with connected(numbers) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE numbers")
        async with serving(settings) as url:
            export = await create(session, url, dataset="numbers")
            await waits_for(export, "source")
        async with serving(settings) as url:
            export = RemoteExport(session, url, export.id)
            await waits_for(export, "source")
            await transaction.commit()
            await all_whole([export])
