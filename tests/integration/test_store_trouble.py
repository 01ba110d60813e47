"""An exports table that is locked, read-only, late or forbidden: no export that is whole on the disk is lost.

Once all bytes of an export are durable, the row alone decides about its file.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from streamer.errors import StartError
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import Configure, Serve, connected, files_in, users_sha256
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv, gated_sha256
from tests.integration.sources import entered_as, made_role
from tests.polling import PATIENCE, until
from tests.proxy import proxied

LEASE = timedelta(seconds=0.6)
SHORT_LEASE: dict[str, Any] = {"lease": LEASE, "renewal": LEASE / 6}
IMPATIENT: dict[str, Any] = {"statement_timeout": 0.2}
REFUSING = """
    CREATE TABLE IF NOT EXISTS refused (sqlstate text);
    CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE code text := (SELECT sqlstate FROM refused LIMIT 1);
    BEGIN
        IF code IS NOT NULL THEN RAISE EXCEPTION 'refused' USING ERRCODE = code; END IF;
        RETURN NEW;
    END $$;
"""
REFUSE_COMPLETED = """
    CREATE TRIGGER refusing BEFORE UPDATE ON streamer.exports FOR EACH ROW
    WHEN (NEW.state = 'completed') EXECUTE FUNCTION refuse()
"""
REFUSE_ALL = """
    CREATE TRIGGER refusing BEFORE INSERT OR UPDATE ON streamer.exports FOR EACH ROW EXECUTE FUNCTION refuse()
"""
READ_ONLY, NO_PRIVILEGE, SERIALIZATION, TIMEOUT = "25006", "42501", "40001", "57014"


def times(**chosen: Any) -> pytest.MarkDecorator:
    """The servers of the test have these JobTimes."""
    return pytest.mark.parametrize("tuning", [Tuning(jobs=JobTimes(**chosen))], ids=[" ".join(chosen)])


async def completing(gates: Gates) -> None:
    """Waits until the statement that completes an export is blocked."""

    async def waits() -> bool:
        return bool(
            await gates.connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND query LIKE '%SET state = ''completed''%'"
            )
        )

    await until(waits, "an export waits to be completed")


@asynccontextmanager
async def locked_table(database: str) -> AsyncIterator[None]:
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports IN EXCLUSIVE MODE")
        yield


# The end of an export


@times(**SHORT_LEASE, **IMPATIENT)
async def test_a_whole_export_survives_a_table_that_is_locked_for_longer_than_a_lease(
    serve: Serve, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    async with session.get(export.download) as follower:
        begun = await follower.content.readexactly(1000)
        await gates.reached("gated", 90_000)
        async with locked_table(database):
            await gates.open("gated", 90_000)
            await completing(gates)
            await asyncio.sleep(3 * LEASE.total_seconds())
        assert sha256(begun + await follower.read()) == gated_sha256()
    status = await export.until("completed")
    assert (status["sha256"], status["attempts"], status["error"]) == (gated_sha256(), 1, None)
    assert sha256(await export.body()) == gated_sha256()


@times(**SHORT_LEASE)
@pytest.mark.parametrize("code", [READ_ONLY, NO_PRIVILEGE, TIMEOUT])
async def test_a_completion_that_the_table_refuses_is_retried(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    server = await serve()
    await gates.connection.execute(REFUSING)
    await gates.connection.execute(REFUSE_COMPLETED)
    await gates.connection.execute("INSERT INTO refused VALUES ($1)", code)
    export = await create(session, server.url, columns="id")

    async def waits() -> bool:
        return caplog.text.count(f"export {export.id}: waiting for the database") >= 2

    await until(waits, "the export waits for the table")
    await asyncio.sleep(LEASE.total_seconds())
    assert (await export.status())["status"] == "processing"
    await gates.connection.execute("DELETE FROM refused")
    status = await export.until("completed")
    assert (status["sha256"], status["attempts"]) == (users_sha256(), 1)
    assert sha256(await export.body()) == users_sha256()
    assert "Traceback" not in caplog.text


async def test_a_stop_does_not_remove_the_file_of_an_export_whose_row_says_completed(
    configure: Configure, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    """The answer to the statement that completed it is late."""
    await gates.view("gated", rows=1000)
    async with proxied(database) as proxy:
        settings = configure(database_url=proxy.url, **gates.settings)
        async with serving(settings, tuning=Tuning(jobs=JobTimes(stop_timeout=0.3))) as url:
            proxy.hold_answer_to("SET state = 'completed'")
            export = await create(session, url, dataset="gated")
            await asyncio.wait_for(proxy.holding.wait(), PATIENCE)
            await until_row(gates, export, "completed")
        assert files_in(settings.export_storage_path) == {export.file_name}
        proxy.release()
    async with serving(configure(**gates.settings)) as url:
        again = RemoteExport(session, url, export.id)
        assert sha256(await again.body()) == sha256(gated_csv(1000))


async def until_row(gates: Gates, export: RemoteExport, state: str) -> None:
    async def as_wanted() -> bool:
        found = await gates.connection.fetchval("SELECT state FROM streamer.exports WHERE id = $1", UUID(export.id))
        return bool(found == state)

    await until(as_wanted, f"the row of export {export.id} says {state}")


@times(**IMPATIENT)
async def test_an_export_cancelled_while_it_waits_to_be_completed_leaves_no_file(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve()
    await gates.connection.execute(REFUSING)
    await gates.connection.execute(REFUSE_COMPLETED)
    await gates.connection.execute("INSERT INTO refused VALUES ($1)", READ_ONLY)
    export = await create(session, server.url, columns="id")

    async def waits() -> bool:
        return f"export {export.id}: waiting for the database" in caplog.text

    await until(waits, "the export waits for the table")
    assert await export.delete() == 204
    assert server.files() == set()
    status = await export.status()
    assert (status["status"], status["links"].keys()) == ("cancelled", {"self"})


# Other requests


async def test_a_delete_without_the_table_leaves_the_file(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    export = await create(session, server.url, columns="id")
    await export.until("completed")
    await gates.connection.execute(REFUSING + REFUSE_ALL)
    await gates.connection.execute("INSERT INTO refused VALUES ($1)", READ_ONLY)
    async with session.delete(export.resource) as response:
        await read_problem(response, 503)
    assert (await export.status())["removedAt"] is None
    assert sha256(await export.body()) == users_sha256()
    await gates.connection.execute("DELETE FROM refused")
    assert await export.delete() == 204
    assert (await export.status())["removedAt"] is not None
    assert server.files() == set()


@pytest.mark.parametrize("code", [READ_ONLY, SERIALIZATION])
async def test_completed_exports_are_served_while_the_table_is_read_only_and_new_ones_get_503(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, code: str
) -> None:
    server = await serve(tuning=Tuning(jobs=JobTimes(cache_lifetime=0.0)))
    export = await create(session, server.url, columns="id")
    await export.until("completed")
    await gates.connection.execute(REFUSING + REFUSE_ALL)
    await gates.connection.execute("INSERT INTO refused VALUES ($1)", code)
    for _ in range(2):
        assert sha256(await export.body()) == users_sha256()
    async with session.post(f"{server.url}/exports/csv") as response:
        await read_problem(response, 503)


async def test_completed_exports_are_downloaded_while_the_table_is_locked(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    server = await serve(tuning=Tuning(jobs=JobTimes(cache_lifetime=0.0, note_timeout=0.1)))
    export = await create(session, server.url, columns="id")
    await export.until("completed")
    async with locked_table(database):
        bodies = await asyncio.gather(*(export.body() for _ in range(8)))
    assert {sha256(body) for body in bodies} == {users_sha256()}


# Roles and their defaults


async def test_servers_work_with_every_default_isolation_level(
    configure: Configure, serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    name = await gates.connection.fetchval("SELECT current_database()")
    await gates.connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    servers = await asyncio.gather(*(serve() for _ in range(2)))
    exports = await asyncio.gather(*(create(session, server.url, columns="id") for server in servers for _ in range(5)))
    for export in exports:
        status = await export.until("completed")
        assert (status["sha256"], status["attempts"]) == (users_sha256(), 1)


@pytest.mark.parametrize("grants", ["SELECT", "SELECT, INSERT"])
async def test_a_role_that_may_not_change_the_table_ends_the_start_with_one_line(
    configure: Configure, gates: Gates, database: str, grants: str
) -> None:
    async with serving(configure()):
        pass
    async with made_role(gates.connection) as role:
        await gates.connection.execute(f"GRANT USAGE ON SCHEMA streamer TO {role}")
        await gates.connection.execute(f"GRANT {grants} ON ALL TABLES IN SCHEMA streamer TO {role}")
        denied = r"^DATABASE_URL: .*permission denied for table exports \(SQLSTATE 42501\)$"
        with pytest.raises(StartError, match=denied) as refused:
            async with serving(configure(database_url=entered_as(database, role))):
                pass
        assert "\n" not in str(refused.value)


async def test_a_role_that_may_not_create_the_table_is_told_what_to_grant(
    configure: Configure, gates: Gates, database: str
) -> None:
    name = await gates.connection.fetchval("SELECT quote_ident(current_database())")
    await gates.connection.execute("DROP SCHEMA IF EXISTS streamer CASCADE")
    async with made_role(gates.connection) as role:
        with pytest.raises(StartError, match=r"^DATABASE_URL: .*permission denied for database ") as refused:
            async with serving(configure(database_url=entered_as(database, role))):
                pass
    assert f"; GRANT CREATE ON DATABASE {name} TO {role}, or keep the table in another database" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_database_that_is_read_only_ends_the_start_with_one_line(configure: Configure, gates: Gates) -> None:
    async with serving(configure()):
        pass
    name = await gates.connection.fetchval("SELECT current_database()")
    await gates.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StartError, match=r"^DATABASE_URL: .*read-only transaction \(SQLSTATE 25006\)$"):
        async with serving(configure()):
            pass


async def test_a_role_with_a_statement_timeout_gets_503_while_the_table_is_locked(
    configure: Configure,
    gates: Gates,
    database: str,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = await gates.connection.fetchval("SELECT current_database()")
    await gates.connection.execute(f"ALTER DATABASE {name} SET statement_timeout = '500ms'")
    async with serving(configure(), tuning=Tuning(jobs=JobTimes(**SHORT_LEASE))) as url:
        async with locked_table(database):
            async with session.post(f"{url}/exports/csv", params={"columns": "id"}) as response:
                await read_problem(response, 503)
            await asyncio.sleep(LEASE.total_seconds())
        export = await create(session, url, columns="id")
        assert (await export.until("completed"))["sha256"] == users_sha256()
    assert "Traceback" not in caplog.text
