"""Rows of a newer version in a table that this version shares with it, and tables that are not of this version.

The newer version is simulated with SQL. Its exports are shown and can be downloaded, cancelled and deleted, but are
never run here: an export from a request that is understood only in part would contain other rows.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from streamer.client import Client, ExportGone
from streamer.errors import StartError
from streamer.http.api.status import UNREADABLE
from streamer.jobs.recovery import EXHAUSTED, SERVED
from streamer.jobs.store import MIGRATIONS
from streamer.jobs.times import JobTimes
from streamer.model import SPEC_VERSION, ExportSpec
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.servers import PREFIX
from tests.conftest import Configure, Gated, Serve, Server, users_sha256
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv
from tests.integration.sources import entered_as, made_role
from tests.polling import until

SPEC = json.loads(ExportSpec(dataset="users", columns=("id",)).to_json())
KNOWN = max(MIGRATIONS)
NEWER = {
    "an unknown field": ({**SPEC, "offset": 5}, 1),
    "an unknown field in the dialect": ({**SPEC, "dialect": {"line_end": "crlf"}}, 1),
    "an unknown operator": ({**SPEC, "conditions": [{"column": "id", "operator": "matches", "values": ["1"]}]}, 1),
    "another version in the JSON": ({**SPEC, "version": SPEC_VERSION + 1}, 1),
    "another version in the row": (SPEC, SPEC_VERSION + 1),
    "no JSON": ("{", 1),
}
every_newer = pytest.mark.parametrize(("spec", "version"), NEWER.values(), ids=NEWER)


def renewing(seconds: float) -> pytest.MarkDecorator:
    """Servers renew their leases and look for orphans at this interval."""
    tuning = Tuning(jobs=JobTimes(renewal=timedelta(seconds=seconds)))
    return pytest.mark.parametrize("tuning", [tuning], ids=[f"renewing every {seconds} s"])


class Rows:
    """The table, and rows that another version writes to it."""

    def __init__(self, gates: Gates, session: aiohttp.ClientSession) -> None:
        self._connection = gates.connection
        self._session = session

    async def add(self, server: Server, spec: Any, version: int = 1, state: str = "pending", **more: Any) -> "Row":
        """Inserts a row of a dead server."""
        values = {
            "id": uuid4(),
            "state": state,
            "spec": spec if isinstance(spec, str) else json.dumps(spec),
            "spec_version": version,
            "server_id": uuid4(),
            **more,
        }
        names = ", ".join(values)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self._connection.execute(
            f"INSERT INTO streamer.exports ({names}, lease_until) VALUES ({places}, '-infinity')", *values.values()
        )
        return Row(self, RemoteExport(self._session, server.url, str(values["id"])))

    async def change(self, export: RemoteExport, **values: Any) -> None:
        assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(values, 2))
        await self._connection.execute(
            f"UPDATE streamer.exports SET {assignments} WHERE id = $1", UUID(export.id), *values.values()
        )

    async def read(self, export: RemoteExport) -> dict[str, Any]:
        row = await self._connection.fetchrow("SELECT * FROM streamer.exports WHERE id = $1", UUID(export.id))
        assert row is not None
        return dict(row)

    async def allow_any_state(self) -> None:
        await self._connection.execute("ALTER TABLE streamer.exports DROP CONSTRAINT exports_state_check")


class Row:
    def __init__(self, rows: Rows, export: RemoteExport) -> None:
        self.rows = rows
        self.export = export

    async def read(self) -> dict[str, Any]:
        return await self.rows.read(self.export)


@pytest.fixture
def rows(gates: Gates, session: aiohttp.ClientSession) -> Rows:
    return Rows(gates, session)


def at(server: Server, export: RemoteExport) -> RemoteExport:
    return RemoteExport(export.session, server.url, export.id)


async def listed(server: Server, session: aiohttp.ClientSession) -> dict[str, dict[str, Any]]:
    async with session.get(f"{server.url}/exports") as response:
        assert response.status == 200, await response.text()
        return {export["exportId"]: export for export in (await response.json())["exports"]}


# Requests


@every_newer
@renewing(0.1)
async def test_a_request_of_a_newer_version_is_shown_and_not_run_while_others_are(
    serve: Serve, rows: Rows, session: aiohttp.ClientSession, spec: Any, version: int
) -> None:
    first = await serve()
    theirs = [await rows.add(first, spec, version, state, attempts=1) for state in ("pending", "processing")]
    before = [await row.read() for row in theirs]
    ours = (await rows.add(first, SPEC)).export
    second = await serve()  # one that starts finds them, too
    assert (await ours.until("completed"))["sha256"] == users_sha256()
    found = await listed(second, session)
    for row, state in zip(theirs, ("pending", "processing"), strict=True):
        status = await at(second, row.export).status()
        assert status == found[row.export.id]
        assert (status["status"], status["error"], status["notice"]) == (state, None, UNREADABLE)
        assert status["progress"]["totalRows"] == 0
        assert not {"dataset", "columns", "query"} & status.keys()
        async with session.get(row.export.download) as response:
            assert response.headers["Retry-After"]
            await read_problem(response, 503)
    assert [await row.read() for row in theirs] == before
    assert "notice" not in found[ours.id]


@every_newer
async def test_a_request_of_a_newer_version_whose_server_died_fails_where_it_cannot_be_run_again(
    serve: Serve, rows: Rows, spec: Any, version: int
) -> None:
    server = await serve()
    served = await rows.add(server, spec, version, "processing", attempts=1, served=True)
    exhausted = await rows.add(server, spec, version, "processing", attempts=3)
    after = await serve()
    assert (await at(after, served.export).until("failed"))["error"] == SERVED
    assert (await at(after, exhausted.export).until("failed"))["error"] == EXHAUSTED


@every_newer
async def test_a_completed_export_of_a_newer_version_is_downloaded_and_deleted(
    serve: Serve, rows: Rows, session: aiohttp.ClientSession, spec: Any, version: int
) -> None:
    server = await serve()
    export = await create(session, server.url, columns="id")
    await export.until("completed")
    text = spec if isinstance(spec, str) else json.dumps(spec)
    await rows.change(export, spec=text, spec_version=version)
    after = at(await serve(), export)
    day = (await rows.read(export))["created_at"].date().isoformat()
    for method in ("HEAD", "GET"):
        async with session.request(method, after.download) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
            assert response.headers["Content-Disposition"] == f'attachment; filename="export_{day}.csv"'
            body = await response.read()
    assert sha256(body) == (await after.status())["sha256"] == users_sha256()
    async with session.get(after.download, headers={"Range": "bytes=1-2,5-6"}) as response:
        assert response.status == 206
    async with session.post(f"{after.resource}/cancel") as response:
        assert (response.status, (await response.json())["status"]) == (200, "completed")
    assert await after.delete() == 204
    async with session.get(after.download) as response:
        await read_problem(response, 410)
    assert server.files() == set()


@every_newer
async def test_an_unfinished_export_of_a_newer_version_is_cancelled(
    serve: Serve, rows: Rows, session: aiohttp.ClientSession, spec: Any, version: int
) -> None:
    server = await serve()
    deleted, cancelled = [await rows.add(server, spec, version) for _ in range(2)]
    assert await deleted.export.delete() == 204
    async with session.post(f"{cancelled.export.resource}/cancel") as response:
        assert (response.status, (await response.json())["status"]) == (200, "cancelled")
    for row in (deleted, cancelled):
        assert (await row.export.status())["progress"] == {
            "totalRows": 0,
            "processedRows": 0,
            "percentage": 0.0,
            "estimated": True,
            "bytes": 0,
            "rowsPerSecond": 0,
        }


@every_newer
async def test_a_key_of_a_newer_version_belongs_to_another_request(
    serve: Serve, rows: Rows, session: aiohttp.ClientSession, spec: Any, version: int
) -> None:
    server = await serve()
    await rows.add(server, spec, version, idempotency_key="one")
    async with session.post(
        f"{server.url}/exports/csv", params={"columns": "id"}, headers={"Idempotency-Key": "one"}
    ) as response:
        problem = await read_problem(response, 422)
    assert "this version cannot read" in problem["detail"]


@renewing(0.3)
async def test_a_request_that_becomes_unreadable_in_the_queue_is_released(
    gated: Gated, gates: Gates, rows: Rows, session: aiohttp.ClientSession
) -> None:
    server, running = await gated(1, max_concurrent_exports=1)
    await gates.reached("gated", 1)
    queued = await create(session, server.url, dataset="gated")
    readable = (await rows.read(queued))["spec"]
    await rows.change(queued, spec=json.dumps({**json.loads(readable), "offset": 5}))
    async with session.get(queued.download) as follower:
        await gates.open("gated", 1)
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
    await running.until("completed")
    row = await rows.read(queued)
    assert (row["state"], row["attempts"]) == ("pending", 0)
    await rows.change(queued, spec=readable)
    assert (await queued.until("completed"))["sha256"] == sha256(gated_csv())


async def test_the_client_shows_what_a_newer_version_wrote(serve: Serve, rows: Rows) -> None:
    server = await serve()
    await rows.allow_any_state()
    unreadable = await rows.add(server, "{", 1)
    unknown = await rows.add(server, SPEC, 1, "archived")
    async with Client(server.url) as client:
        found = {str(status.export_id): status async for status in client.exports()}
        first, second = found[unreadable.export.id], found[unknown.export.id]
        assert (first.status, first.final, first.notice, first.columns) == ("pending", False, UNREADABLE, ())
        assert (second.status, second.final, second.completed, second.notice) == ("archived", False, False, None)
        await client.get(first.export_id).cancel()
        with pytest.raises(ExportGone):
            await client.get(first.export_id).save("nowhere.csv")


# States


async def test_a_state_of_a_newer_version_is_shown_unchanged_and_is_not_final(
    serve: Serve, rows: Rows, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    export = await create(session, server.url, columns="id")
    await export.until("completed")
    await rows.allow_any_state()
    await rows.change(export, state="archived", idempotency_key="one")
    before = await rows.read(export)
    after = await serve()
    there = at(after, export)
    assert (await there.status())["status"] == (await listed(after, session))[export.id]["status"] == "archived"
    for method, url in (
        ("GET", there.download),
        ("HEAD", there.download),
        ("DELETE", there.resource),
        ("POST", f"{there.resource}/cancel"),
    ):
        async with session.request(method, url) as response:
            assert response.status == 409
            if method != "HEAD":
                assert "'archived'" in (await read_problem(response, 409))["detail"]
    async with session.post(
        f"{after.url}/exports/csv", params={"columns": "id"}, headers={"Idempotency-Key": "one"}
    ) as response:
        assert (response.status, (await response.json())["status"]) == (202, "archived")
    assert await rows.read(export) == before
    assert after.files() == {export.file_name}


# Tables


async def migrations(gates: Gates) -> list[int]:
    return [row["version"] for row in await gates.connection.fetch("SELECT * FROM streamer.migrations ORDER BY 1")]


async def changes_nothing(configure: Configure, complaint: str) -> None:
    with pytest.raises(StartError, match=rf"^DATABASE_URL: [^\n]*{complaint}[^\n]*$"):
        async with serving(configure()):
            pass


def test_migrations_are_numbered_from_one_without_a_hole() -> None:
    numbers = list(MIGRATIONS)
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_table_of_a_newer_version_ends_the_start_and_is_not_changed(
    configure: Configure, gates: Gates, rows: Rows, serve: Serve
) -> None:
    row = await rows.add(await serve(), SPEC, state="processing", served=True)
    await gates.connection.execute("INSERT INTO streamer.migrations VALUES ($1)", KNOWN + 1)
    before = await row.read(), await migrations(gates)
    await changes_nothing(
        configure, f"newer version of streamer .migration {KNOWN + 1}, and this version knows {KNOWN}"
    )
    assert (await row.read(), await migrations(gates)) == before


@pytest.mark.parametrize("hole", [1, 3, KNOWN - 1])
async def test_a_table_with_a_missing_migration_ends_the_start_and_is_not_changed(
    configure: Configure, gates: Gates, hole: int
) -> None:
    async with serving(configure()):
        pass
    await gates.connection.execute("DELETE FROM streamer.migrations WHERE version = $1", hole)
    before = await migrations(gates)
    await changes_nothing(configure, f"streamer.migrations has {KNOWN} but not {hole}:")
    assert await migrations(gates) == before


FIRST_SPEC = (
    '{"version":1,"dataset":"users","columns":["id"],"conditions":[],"order":[],"limit":null,"dialect":{"delimiter":",",'
    '"quote":"\\"","header":true,"null":"","bom":false,"escape_formulas":false,"timestamps":"postgres"}}'
)
"""As versions before migration 011 wrote it."""


async def table_of_version(gates: Gates, version: int) -> None:
    """Makes the table of a version whose newest migration was this one."""
    await gates.connection.execute("CREATE SCHEMA streamer; CREATE TABLE streamer.migrations (version integer)")
    for number, statements in MIGRATIONS.items():
        if number <= version:
            await gates.connection.execute(statements)
            await gates.connection.execute("INSERT INTO streamer.migrations VALUES ($1)", number)


@pytest.mark.parametrize(("version", "server_id"), [(8, "owner"), (10, "server_id")])
async def test_unfinished_exports_of_an_older_version_are_run_after_the_migration(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession, version: int, server_id: str
) -> None:
    """One was running and one waiting when their server died; another server had stopped before one was finished."""
    await table_of_version(gates, version)
    dead = uuid4()
    exports = {uuid4(): row for row in [("processing", 1, "30 s"), ("pending", 0, "30 s"), ("pending", 1, "0 s")]}
    for export_id, (state, attempts, lease) in exports.items():
        await gates.connection.execute(
            f"INSERT INTO streamer.exports (id, state, spec, {server_id}, lease_until, attempts, idempotency_key)"
            " VALUES ($1, $2, $3, $4, clock_timestamp() + $5::text::interval, $6, $7)",
            *(export_id, state, FIRST_SPEC, dead, lease, attempts, str(export_id)),
        )
    configure().export_storage_path.mkdir(parents=True, exist_ok=True)
    (configure().export_storage_path / f"{PREFIX}{dead}").touch()
    async with serving(configure()) as url:
        for export_id, (_, attempts, _) in exports.items():
            status = await RemoteExport(session, url, str(export_id)).until("completed")
            assert (status["attempts"], status["sha256"]) == (attempts + 1, users_sha256())
            async with session.post(
                f"{url}/exports/csv", params={"columns": "id"}, headers={"Idempotency-Key": str(export_id)}
            ) as response:
                assert (await response.json())["exportId"] == str(export_id)
    assert await migrations(gates) == list(range(1, KNOWN + 1))


@asynccontextmanager
async def server_as_a_role(configure: Configure, gates: Gates, *grants: str) -> AsyncIterator[str]:
    """Yields the URL of the migrated store for a role with these rights only."""
    async with serving(configure()):
        pass
    async with made_role(gates.connection) as role:
        for grant in grants:
            await gates.connection.execute(f"GRANT {grant} TO {role}")
        yield entered_as(configure().database_url, role)


async def test_a_migrated_table_needs_no_right_to_create(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession
) -> None:
    grants = (
        "USAGE ON SCHEMA streamer",
        "SELECT ON streamer.migrations",
        "SELECT, INSERT, UPDATE ON streamer.exports",
        "SELECT, INSERT, UPDATE, DELETE ON streamer.representations, streamer.flushes",
    )
    async with (
        server_as_a_role(configure, gates, *grants) as url,
        serving(configure(database_url=url, source_database_url=configure().source_database_url)) as server,
    ):
        assert (await (await create(session, server, columns="id")).until("completed"))["sha256"] == users_sha256()


@pytest.mark.parametrize("grants", [[], ["USAGE ON SCHEMA streamer"]])
async def test_a_table_that_may_not_be_read_ends_the_start_with_one_line(
    configure: Configure, gates: Gates, grants: list[str]
) -> None:
    async with server_as_a_role(configure, gates, *grants) as url:
        with pytest.raises(StartError, match=r"^DATABASE_URL: [^\n]*permission denied for [^\n]*$"):
            async with serving(configure(database_url=url)):
                pass


# Progress


async def test_every_value_of_the_progress_is_a_number_in_every_answer(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, running = await gated(50_000, max_concurrent_exports=1)
    await gates.reached("gated", 50_000)
    queued = [await create(session, server.url, dataset="gated") for _ in range(2)]
    await queued[0].delete()
    seen = [await export.status() for export in (running, *queued)]
    await gates.open("gated", 50_000)
    for export in (running, queued[1]):
        seen.append(await export.until("completed"))
        assert seen[-1]["progress"]["totalRows"] == seen[-1]["progress"]["processedRows"] == 100_000
    for status in seen:
        numbers = {name: value for name, value in status["progress"].items() if name != "estimated"}
        assert all(type(value) in (int, float) for value in numbers.values()), numbers
        assert status["progress"]["estimated"] is (status["status"] != "completed")
    waiting, cancelled = seen[2]["progress"], seen[1]["progress"]
    assert waiting == cancelled == {**dict.fromkeys(waiting, 0), "estimated": True}


async def shown_percentage(export: RemoteExport) -> float:
    """Returns the percentage when every row before the gate can be read."""
    found: dict[str, Any] = {}

    async def all_there() -> bool:
        found.update((await export.status())["progress"])
        return bool(found["processedRows"] == 89_998)

    await until(all_there, "all before the gate can be read")
    percentage: float = found["percentage"]
    assert percentage > 0
    return percentage


async def test_the_percentage_does_not_fall_when_an_export_ends_early_or_is_run_again(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress is written to the row only at the end of a run."""
    tuning = Tuning(jobs=JobTimes(report_interval=3600.0, retry_delay=timedelta(seconds=0.2)))
    await gates.view("gated")
    await gates.shut("gated", 1, 90_000)
    async with serving(configure(**gates.settings, max_concurrent_exports=1), tuning=tuning) as url:
        cancelled, failed, again = [await create(session, url, dataset="gated") for _ in range(3)]
        await gates.open("gated", 1)
        ends = (cancelled.delete, gates.refuse)
        for export, end, state in zip((cancelled, failed), ends, ("cancelled", "failed"), strict=True):
            reached = await shown_percentage(export)
            await end()
            status = await export.until(state)
            assert status["progress"]["percentage"] == reached
        reached = await shown_percentage(again)
        await gates.shut("gated", 1)
        backend = await gates.reached("gated", 90_000)
        await gates.connection.execute("SELECT pg_terminate_backend($1)", backend)
        await gates.reached("gated", 1)
        status = await again.status()
        assert (status["attempts"], status["progress"]["processedRows"]) == (2, 0)
        assert status["progress"]["percentage"] == reached
    # The server has stopped, and the next one runs it.
    async with serving(configure(**gates.settings), tuning=tuning) as url:
        after = RemoteExport(session, url, again.id)
        assert (await after.status())["progress"]["percentage"] == reached
        await gates.reached("gated", 1)
        assert (await after.status())["progress"]["percentage"] == reached
        await gates.open("gated", 1, 90_000)
        assert (await after.until("completed"))["progress"]["percentage"] == 100
