"""An export of which no byte was served is run again under the same id; any other never is.

The rule is shown for a source that is cut off, for a table that is cut off, for servers that died and for leases that
ran out: at most three attempts, with a growing pause, counted in the status. The table notes that a byte is served
before the byte is sent.
"""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from streamer.http.download.live import DownloadTimes
from streamer.jobs.recovery import EXHAUSTED, SERVED
from streamer.jobs.table import STATEMENTS
from streamer.jobs.times import JobTimes
from streamer.model import ExportSpec
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.source.source import CursorChoice
from streamer.spool.servers import PREFIX
from tests.conftest import Configure, Gated, Serve, Server, connected, users_sha256
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv, gated_sha256
from tests.polling import PATIENCE, until
from tests.proxy import proxied
from tests.rawhttp import connection

NOTHING_COMES = 0.2  # seconds
LONG_ENOUGH = timedelta(seconds=3)  # a pause that is long enough for a test to act in
both_cursors = pytest.mark.parametrize("cursor", [CursorChoice.COPY, CursorChoice.FETCH])

END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'streamer' AND datname = $1
"""
WAITS_TO_SERVE = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%SET served%'"


SOON = timedelta(seconds=0.1)
soon_again = pytest.mark.parametrize(
    "tuning",
    [Tuning(jobs=JobTimes(retry_delay=SOON), downloads=DownloadTimes(first_rows=0.05))],
    ids=["soon again"],
)
"""A second attempt comes after SOON, and the headers of a download nearly at once."""

SHORT_LEASE = Tuning(jobs=JobTimes(lease=timedelta(seconds=0.6), renewal=timedelta(seconds=0.1)))
"""Orphans are found within a second."""

short_lease = pytest.mark.parametrize("tuning", [SHORT_LEASE], ids=["short lease"])


async def row_of(gates: Gates, export_id: str) -> "asyncpg.Record":
    row = await gates.connection.fetchrow("SELECT * FROM streamer.exports WHERE id = $1", UUID(export_id))
    assert row is not None
    return row


async def until_bytes(export: RemoteExport, least: int = 1) -> None:
    """Waits until this number of bytes can be read."""

    async def there() -> bool:
        return bool((await export.status())["progress"]["bytes"] >= least)

    await until(there, f"{least} bytes of export {export.id} can be read")


async def until_row(gates: Gates, export: RemoteExport, **wanted: object) -> None:
    async def as_wanted() -> bool:
        row = await row_of(gates, export.id)
        return all(row[name] == value for name, value in wanted.items())

    await until(as_wanted, f"the row of export {export.id} says {wanted}")


# A source that is cut off


@soon_again
@both_cursors
async def test_a_run_that_loses_its_connection_before_a_byte_was_served_is_repeated_under_the_same_id(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession, cursor: CursorChoice
) -> None:
    server, export = await gated(90_000, export_method=cursor)
    first = await gates.reached("gated", 90_000)
    await until_bytes(export)
    before = await export.status()
    await gates.connection.execute("SELECT pg_terminate_backend($1)", first)

    async def again() -> bool:
        return await gates.reached("gated", 90_000) != first

    await until(again, "another session stands at the gate")
    assert (await export.status())["status"] == "processing"
    await gates.open("gated", 90_000)
    after = await export.until("completed")
    assert (before["attempts"], after["attempts"], after["error"]) == (1, 2, None)
    assert after["snapshotAt"] > before["snapshotAt"]
    assert after["startedAt"] == before["startedAt"]
    assert sha256(await export.body()) == after["sha256"] == gated_sha256()
    assert server.files() == {export.file_name}


@soon_again
async def test_a_follower_without_a_byte_gets_the_whole_second_run(
    gated: Gated,
    gates: Gates,
    session: aiohttp.ClientSession,
) -> None:
    server, export = await gated(1)
    async with (
        session.get(export.download) as whole,
        connection(server.url) as ranged,
    ):
        assert whole.status == 200
        await ranged.send("GET", export.path, {"Range": "bytes=1000-"})
        await gates.connection.execute("SELECT pg_terminate_backend($1)", await gates.reached("gated", 1))
        await until_row(gates, export, attempts=2)
        await gates.open("gated", 1)
        assert sha256(await whole.read()) == gated_sha256()
        rest = await ranged.answer()
        assert (rest.status, rest["Content-Range"]) == (206, "bytes 1000-9007199254740991/*")
        assert sha256(rest.body) == sha256(gated_csv()[1000:])
    assert (await export.until("completed"))["attempts"] == 2


@soon_again
async def test_the_third_attempt_is_the_last_and_the_pause_doubles(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, export = await gated(1)
    clock, standing = asyncio.get_running_loop().time, 0
    pauses = []
    begun = clock()
    for attempt in range(1, 4):

        async def another(before: int = standing) -> bool:
            return await gates.reached("gated", 1) != before

        await until(another, f"attempt {attempt} stands at the gate")
        pauses.append(clock() - begun)
        assert (await export.status())["attempts"] == attempt
        standing = await gates.reached("gated", 1)
        begun = clock()
        await gates.connection.execute("SELECT pg_terminate_backend($1)", standing)
    status = await export.until("failed")
    assert status["attempts"] == 3
    assert "connection" in status["error"]
    assert pauses[1] >= SOON.total_seconds()
    assert pauses[2] >= 2 * SOON.total_seconds()
    async with session.get(export.download) as refused:
        assert status["error"] in (await read_problem(refused, 409))["detail"]
    assert server.files() == set()


REFUSING = """
    CREATE TABLE refused (state text);
    CREATE FUNCTION refusing(code text, n bigint) RETURNS bigint LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM refused WHERE state = code) THEN
            RAISE EXCEPTION 'refused with %', code
                USING ERRCODE = code, DETAIL = 'a secret', HINT = 'another secret', TABLE = 'secrets';
        END IF;
        RETURN n;
    END $$
"""
TRANSIENT = ("40001", "40P01", "53300", "57P01", "57P02", "57P03", "72000", "08006")
PERMANENT = ("42501", "42P01", "22012", "57014", "53100", "XX000", "P0001", "0A000")


async def refusing(gates: Gates, *codes: str) -> dict[str, Any]:
    """The settings for a dataset for each SQLSTATE, which fails with it until the table says otherwise."""
    await gates.connection.execute(REFUSING)
    await gates.connection.execute("INSERT INTO refused SELECT unnest($1::text[])", codes)
    for code in codes:
        select = f"SELECT refusing('{code}', n) AS n FROM generate_series(1::bigint, 3) AS n"
        await gates.dataset(f"refuses_{code.lower()}", select)
    return {**gates.settings, "max_concurrent_exports": len(codes)}


async def test_a_temporary_error_is_retried(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> None:
    tuning = Tuning(jobs=JobTimes(retry_delay=LONG_ENOUGH))
    server = await serve(tuning=tuning, **await refusing(gates, *TRANSIENT))
    exports = [await create(session, server.url, dataset=f"refuses_{code.lower()}") for code in TRANSIENT]
    for export in exports:
        await until_row(gates, export, state="pending", attempts=1)
    assert {(await export.status())["error"] for export in exports} == {None}
    await gates.connection.execute("DELETE FROM refused")
    for export in exports:
        status = await export.until("completed")
        assert 2 <= status["attempts"] <= 3
        assert sha256(await export.body()) == status["sha256"] == sha256(b"n\n1\n2\n3\n")


async def test_a_permanent_error_fails_the_export_with_the_message_of_the_database(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(**await refusing(gates, *PERMANENT))
    exports = [await create(session, server.url, dataset=f"refuses_{code.lower()}") for code in PERMANENT]
    for code, export in zip(PERMANENT, exports, strict=True):
        status = await export.until("failed")
        assert (status["error"], status["attempts"]) == (f"PostgreSQL: refused with {code}", 1)
    assert server.files() == set()


async def test_an_export_is_cancelled_in_the_pause_before_its_next_attempt(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    tuning = Tuning(jobs=JobTimes(retry_delay=LONG_ENOUGH))
    server = await serve(tuning=tuning, **await refusing(gates, "40001"))
    export, following = [await create(session, server.url, dataset="refuses_40001") for _ in range(2)]
    await until_row(gates, export, state="pending", attempts=1)
    assert await export.delete() == 204
    await gates.connection.execute("DELETE FROM refused")
    assert sha256(await following.body()) == sha256(b"n\n1\n2\n3\n")
    status = await export.status()
    assert (status["status"], status["attempts"]) == ("cancelled", 1)


# The note that a byte was served


class Locked:
    """The row of one export, locked by the test: every statement that changes it waits."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", gates: Gates) -> None:
        self._connection = connection
        self._gates = gates

    async def waiting(self) -> list[int]:
        """Returns the sessions that wait to note that a byte is served, as soon as there are any."""

        async def waits() -> bool:
            return bool(await self._gates.connection.fetch(WAITS_TO_SERVE))

        await until(waits, "somebody waits to say that a byte is served")
        return [row["pid"] for row in await self._gates.connection.fetch(WAITS_TO_SERVE)]

    async def let_go(self) -> None:
        await self._connection.execute("ROLLBACK")


@asynccontextmanager
async def locked_row(database: str, gates: Gates, export: RemoteExport) -> AsyncIterator[Locked]:
    async with connected(database) as connection:
        await connection.execute("BEGIN")
        await connection.execute("SELECT FROM streamer.exports WHERE id = $1 FOR UPDATE", UUID(export.id))
        yield Locked(connection, gates)


@pytest.mark.parametrize(
    "fields", [{}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=7-"}, {"Range": "bytes=7-99"}], ids=str
)
async def test_no_byte_is_sent_before_the_table_has_noted_it(
    gated: Gated, gates: Gates, database: str, fields: dict[str, str]
) -> None:
    server, export = await gated(90_000)
    await gates.reached("gated", 90_000)
    await until_bytes(export, 8_000_000)
    async with connection(server.url) as first, connection(server.url) as second:
        async with locked_row(database, gates, export) as row:
            for wire in (first, second):
                await wire.send("GET", export.path, {**fields, "Connection": "close"})
            assert len(await row.waiting()) == 1
            for wire in (first, second):
                assert await what_comes(wire.reader) == b""
            assert not (await row_of(gates, export.id))["served"]
            await row.let_go()
        assert await asyncio.wait_for(first.reader.readexactly(1), PATIENCE)
        assert (await row_of(gates, export.id))["served"]
    await gates.open("gated", 90_000)
    assert sha256(await export.body()) == gated_sha256()
    assert (await export.until("completed"))["attempts"] == 1


async def what_comes(reader: asyncio.StreamReader) -> bytes:
    """Returns the part of the body that arrives within a moment, if any."""
    came = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(NOTHING_COMES):
            while piece := await reader.read(65536):
                came += piece
    return bytes(came).partition(b"\r\n\r\n")[2]


async def test_a_table_that_does_not_answer_breaks_the_download_that_has_begun_and_refuses_the_next(
    serve: Serve, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    """A client that came before the first row has got the head; a later one gets the answer 503. No byte is served."""
    await gates.view("gated")
    for gate in (1, 90_000):
        await gates.shut("gated", gate)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    await gates.reached("gated", 1)
    async with session.get(export.download) as begun, locked_row(database, gates, export) as row:
        assert begun.status == 200
        await gates.open("gated", 1)
        await gates.reached("gated", 90_000)
        late = asyncio.create_task(session.get(export.download))
        for session_of_store in await row.waiting():
            await gates.connection.execute("SELECT pg_terminate_backend($1)", session_of_store)
        with pytest.raises(aiohttp.ClientPayloadError):
            await begun.read()
        async with await late as refused:
            await read_problem(refused, 503)
        await row.let_go()
    assert not (await row_of(gates, export.id))["served"]
    async with session.get(export.download) as follower:
        first = await follower.content.readexactly(1000)
        assert (await row_of(gates, export.id))["served"]
        await gates.open("gated", 90_000)
        assert sha256(first + await follower.read()) == gated_sha256()
    assert (await export.until("completed"))["sha256"] == gated_sha256()


async def test_a_download_that_begins_between_the_row_and_the_seal_is_whole(
    configure: Configure, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated", rows=1000)
    async with (
        proxied(database) as proxy,
        serving(configure(database_url=proxy.url, **gates.settings)) as url,
    ):
        proxy.hold_answer_to("SET state = 'completed'")
        export = await create(session, url, dataset="gated")
        await asyncio.wait_for(proxy.holding.wait(), PATIENCE)
        await until_row(gates, export, state="completed", served=False)
        downloading = asyncio.create_task(export.body())
        await until_row(gates, export, state="completed", served=True)
        proxy.release()
        assert sha256(await downloading) == sha256(gated_csv(1000))
        assert sha256(await export.body()) == sha256(gated_csv(1000))


# A table that is cut off


@soon_again
async def test_an_export_is_run_again_when_the_database_has_restarted(
    gated: Gated, gates: Gates, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, export = await gated(90_000)
    await gates.reached("gated", 90_000)
    async with unreachable(postgres, gates):
        await until_said(caplog, f"export {export.id}: waiting for the database")
        await gates.open("gated", 90_000)
    status = await export.until("completed")
    assert (status["attempts"], status["sha256"]) == (2, gated_sha256())
    assert sha256(await export.body()) == gated_sha256()


async def test_a_failure_is_written_when_the_database_is_back(
    gated: Gated, gates: Gates, postgres: str, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    _, export = await gated(90_000)
    async with session.get(export.download) as follower:
        await follower.content.readexactly(1000)
        await gates.reached("gated", 90_000)
        async with unreachable(postgres, gates):
            await until_said(caplog, f"export {export.id}: waiting for the database")
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
        status = await export.status()  # a client whose download was broken finds the reason
    assert (status["status"], status["attempts"]) == ("failed", 1)
    assert "connection" in status["error"]


@short_lease
async def test_an_end_that_was_not_written_is_settled_when_the_lease_runs_out(
    serve: Serve, gates: Gates, postgres: str, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    server = await serve(**gates.settings)
    served, unserved = [await create(session, server.url, dataset="gated") for _ in range(2)]
    async with session.get(served.download) as follower:
        await follower.content.readexactly(1000)
        await gates.reached("gated", 90_000)
        await unserved.until("processing")
        async with unreachable(postgres, gates):
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
            await server.holds()  # both runs have ended
            await gates.open("gated", 90_000)
    assert (await served.until("failed"))["error"] == SERVED
    status = await unserved.until("completed")
    assert (status["attempts"], status["sha256"]) == (2, gated_sha256())
    assert server.files() == {unserved.file_name}
    assert sha256(await unserved.body()) == gated_sha256()


@asynccontextmanager
async def unreachable(postgres: str, gates: Gates) -> AsyncIterator[None]:
    """The database of the server ends its sessions and takes no new ones, while the context is open."""
    name = await gates.connection.fetchval("SELECT current_database()")
    async with connected(postgres) as connection:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            await connection.execute(END_SESSIONS, name)
            yield
        finally:
            await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def until_said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async def said() -> bool:
        return text in caplog.text

    await until(said, f"the log says {text!r}")


# Servers that died, and leases that ran out


SPEC = ExportSpec(dataset="users", columns=("id",))


@dataclass(frozen=True)
class Left:
    """The rows and files that a dead server has left."""

    gates: Gates
    session: aiohttp.ClientSession
    server: Server

    async def export(
        self,
        server_id: UUID,
        *,
        state: str = "processing",
        lease: str = "1 hour",
        attempts: int = 1,
        served: bool = False,
        not_before: str | None = None,
    ) -> RemoteExport:
        export_id = uuid4()
        await self.gates.connection.execute(
            "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, attempts, served, not_before)"
            " VALUES ($1, $2, $3, $4, clock_timestamp() + $5::text::interval, $6, $7,"
            " clock_timestamp() + $8::text::interval)",
            *(export_id, state, SPEC.to_json(), server_id, lease, attempts, served, not_before),
        )
        if state == "processing":
            (self.server.spool / f"{export_id}.csv").write_bytes(b"id\n1\n2")
        return RemoteExport(self.session, self.server.url, str(export_id))

    def lock_of(self, server_id: UUID) -> Path:
        return self.server.spool / f"{PREFIX}{server_id}"

    @property
    def running(self) -> UUID:
        """The id of the server itself."""
        (lock,) = self.server.spool.glob(f"{PREFIX}*")
        return UUID(lock.name.removeprefix(PREFIX))


@pytest.fixture
async def left(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> Left:
    """A running server that looks for dead servers every 0.1 s."""
    return Left(gates, session, await serve(tuning=SHORT_LEASE, max_concurrent_exports=1))


async def test_the_exports_of_a_server_whose_lock_is_free_are_settled_while_their_lease_holds(left: Left) -> None:
    server_id = uuid4()
    waiting = await left.export(server_id, state="pending", attempts=1, not_before="300 ms")
    begun, served = await left.export(server_id), await left.export(server_id, served=True)
    exhausted = await left.export(server_id, attempts=3)
    left.lock_of(server_id).touch()
    for export, reason in ((served, SERVED), (exhausted, EXHAUSTED)):
        assert (await export.until("failed"))["error"] == reason
    for export in (waiting, begun):
        status = await export.until("completed")
        assert (status["attempts"], status["sha256"]) == (2, users_sha256())
        assert sha256(await export.body()) == users_sha256()
    assert left.server.files() == {waiting.file_name, begun.file_name}
    assert not left.lock_of(server_id).exists()


async def test_a_server_whose_lock_is_held_is_alive_until_its_lease_runs_out(left: Left) -> None:
    server_id = uuid4()
    lock = left.lock_of(server_id)
    dead = uuid4()
    with lock.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alive, late = await left.export(server_id), await left.export(server_id, lease="100 ms")
        clock = await left.export(dead)
        left.lock_of(dead).touch()
        for export in (late, clock):
            assert (await export.until("completed"))["sha256"] == users_sha256()
        assert (await alive.status())["attempts"] == 1
        async with left.session.get(alive.download) as response:
            assert "another server" in (await read_problem(response, 503))["detail"]
            assert int(response.headers["Retry-After"]) > 0
        assert alive.file_name in left.server.files()
        assert lock.exists()
    assert (await alive.until("completed"))["attempts"] == 2
    assert sha256(await alive.body()) == users_sha256()


@pytest.mark.parametrize("state", ["pending", "processing"])
async def test_a_row_of_this_server_that_it_does_not_run_is_settled_by_its_lease(left: Left, state: str) -> None:
    """The answer to the statement that changed the row was lost."""
    export = await left.export(left.running, state=state, lease="300 ms", attempts=int(state == "processing"))
    assert (await export.until("completed"))["sha256"] == users_sha256()
    assert sha256(await export.body()) == users_sha256()


async def test_a_row_of_this_server_that_it_does_not_run_does_not_block_others(left: Left) -> None:
    await left.export(left.running, state="pending", attempts=0)
    export = await create(left.session, left.server.url, columns="id")
    assert (await export.until("completed"))["sha256"] == users_sha256()


@short_lease
async def test_the_lease_of_a_running_export_is_renewed_and_one_that_waits_has_none(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, running = await gated(50_000, max_concurrent_exports=1)
    await gates.reached("gated", 50_000)
    waiting = await create(session, server.url, dataset="gated")
    first = (await row_of(gates, running.id))["lease_until"]

    async def outlived() -> bool:
        return bool((await row_of(gates, running.id))["lease_until"] > first + timedelta(seconds=1))

    await until(outlived, "the lease is renewed")
    row = await row_of(gates, waiting.id)
    assert (row["state"], row["server_id"], row["lease_until"]) == ("pending", None, None)
    await gates.open("gated", 50_000)
    for export in (running, waiting):
        status = await export.until("completed")
        assert (status["attempts"], status["sha256"]) == (1, gated_sha256())


@short_lease
async def test_a_run_with_a_damaged_lease_is_not_started_twice(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, running = await gated(50_000, max_concurrent_exports=1)
    await gates.reached("gated", 50_000)
    waiting = await create(session, server.url, dataset="gated")
    await gates.connection.execute(
        "UPDATE streamer.exports SET lease_until = '-infinity' WHERE id = $1",
        UUID(running.id),
    )

    async def renewed() -> bool:
        return bool((await row_of(gates, running.id))["lease_until"] != datetime.min)

    await until(renewed, "the lease is renewed")
    await gates.open("gated", 50_000)
    for each in (running, waiting):
        assert sha256(await each.body()) == (await each.until("completed"))["sha256"] == gated_sha256()
    assert (await running.status())["attempts"] == 1


# Requests while the database does not answer


async def test_requests_get_503_until_the_database_answers(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    async with proxied(database) as proxy:
        server = await serve(tuning=Tuning(jobs=JobTimes(statement_timeout=1.0)), database_url=proxy.url)
        export = await create(session, server.url, columns="id")
        await export.until("completed")
        proxy.hold_answer_to(STATEMENTS["get"])
        async with session.get(f"{server.url}/exports/{export.id}") as response:
            assert "does not answer" in (await read_problem(response, 503))["detail"]
            assert int(response.headers["Retry-After"]) > 0
        proxy.release()
        assert (await export.status())["status"] == "completed"


async def test_requests_get_503_without_a_database_and_the_server_goes_on(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    async with proxied(database) as proxy:
        server = await serve(database_url=proxy.url)
        export = await create(session, server.url, columns="id")
        await export.until("completed")
    for _ in range(5):  # also when no connection is left in the pool
        async with session.get(f"{server.url}/exports/{export.id}") as response:
            await read_problem(response, 503)
    async with session.post(f"{server.url}/exports/csv") as refused:
        await read_problem(refused, 503)
    async with session.get(f"{server.url}/health") as response:
        assert response.status == 200
