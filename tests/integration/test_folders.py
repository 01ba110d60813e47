"""Spool folders: the exports table that a folder belongs to, and the server that manages an export.

A folder belongs to one exports table. Several servers of a table may have folders of their own: an export is served,
expires and is evicted only in the folder that it was written to.
"""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import pytest

from streamer.config import Duration, Size
from streamer.errors import StartError
from streamer.jobs.completed import ELSEWHERE
from streamer.jobs.times import JobTimes
from streamer.model import ExportSpec
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.identity import NAME
from tests.conftest import Configure, Serve, Server, connected, files_in, new_database, users_sha256
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv, gated_sha256
from tests.polling import until

TUNING = Tuning(jobs=JobTimes(cache_lifetime=0.0, sweep_interval=0.05, renewal=timedelta(seconds=0.1)))
SPEC = ExportSpec(dataset="users", columns=("id",)).to_json()


@pytest.fixture
def tuning() -> Tuning:
    """Rows are not cached, and sweeps and leases run every 0.1 s or less."""
    return TUNING


@pytest.fixture
async def another_database(postgres: str) -> AsyncIterator[str]:
    async with new_database(postgres) as url:
        yield url


def asked_of(server: Server, export: RemoteExport) -> RemoteExport:
    return RemoteExport(export.session, server.url, export.id)


async def completed(session: aiohttp.ClientSession, server: Server, **parameters: str) -> RemoteExport:
    export = await create(session, server.url, **parameters)
    await export.until("completed")
    return export


async def age(gates: Gates, export: RemoteExport, hours: int) -> None:
    await gates.connection.execute(
        "UPDATE streamer.exports SET finished_at = finished_at - make_interval(hours => $2) WHERE id = $1",
        UUID(export.id),
        hours,
    )


async def turns(session: aiohttp.ClientSession, server: Server) -> None:
    """Waits until a sweep of the server has ended: it removes the file of a row that the test has inserted."""
    failed = uuid4()
    (server.spool / f"{failed}.csv").write_bytes(b"")
    async with connected(server.settings.database_url) as connection:
        await connection.execute(
            "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until)"
            " VALUES ($1, 'failed', $2, $1, now())",
            failed,
            SPEC,
        )

    async def swept() -> bool:
        return f"{failed}.csv" not in server.files()

    for _ in range(2):
        await until(swept, "the server has swept its folder")
        (server.spool / f"{failed}.csv").write_bytes(b"")
    await until(swept, "the server has swept its folder")


# A folder of another table


async def test_a_server_of_another_database_does_not_start_on_the_folder_and_removes_nothing(
    serve: Serve, configure: Configure, session: aiohttp.ClientSession, another_database: str
) -> None:
    server = await serve()
    export = await completed(session, server, columns="id")
    before = {path.name for path in server.spool.iterdir()}
    with pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: .*holds the exports of another database"):
        async with serving(configure(database_url=another_database), tuning=TUNING):
            pass
    assert {path.name for path in server.spool.iterdir()} == before
    assert sha256(await export.body()) == users_sha256()


async def test_a_server_whose_port_is_taken_takes_over_and_removes_nothing(configure: Configure, gates: Gates) -> None:
    async with serving(configure(), tuning=TUNING):
        pass  # the table and the folder are there
    folder, left, orphan = configure().export_storage_path, uuid4(), uuid4()
    for export_id, state in ((left, "failed"), (orphan, "processing")):
        (folder / f"{export_id}.csv").write_bytes(b"")
        await gates.connection.execute(
            "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until)"
            " VALUES ($1, $2, $3, $1, '-infinity')",
            *(export_id, state, SPEC),
        )
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(StartError, match=r"^port [0-9]+ on 127\.0\.0\.1 is in use"),
    ):
        async with serving(configure(api_port=taken.getsockname()[1]), tuning=TUNING):
            pass
    assert files_in(folder) == {f"{left}.csv", f"{orphan}.csv"}
    assert await gates.connection.fetchval("SELECT state FROM streamer.exports WHERE id = $1", orphan) == "processing"


async def test_a_file_without_a_row_is_logged_and_stays(
    configure: Configure, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    settings = configure(export_ttl=Duration(0))
    settings.export_storage_path.mkdir()
    foreign = settings.export_storage_path / f"{uuid4()}.csv"
    foreign.write_bytes(b"id\n1\n")
    async with serving(settings, tuning=TUNING) as url:
        await turns(session, Server(url, settings))
        assert files_in(settings.export_storage_path) == {foreign.name}
    assert f"{foreign} is not in the exports table" in caplog.text


async def test_a_folder_that_is_deleted_while_the_server_runs_is_created_again(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    lost = await completed(session, server, columns="id")
    identity = (server.spool / NAME).read_bytes()
    shutil.rmtree(server.spool)
    export = await completed(session, server, columns="id")
    assert sha256(await export.body()) == users_sha256()
    async with session.get(lost.download) as response:
        await read_problem(response, 410)
    assert (server.spool / NAME).read_bytes() == identity


# Folders of their own


async def test_files_in_the_folder_of_another_server_stay(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Neither expiry nor a shortage of one server removes exports of the other."""
    await gates.view("gated")
    other = await serve(export_storage_path=tmp_path / "other", **gates.settings)
    theirs = await completed(session, other, dataset="gated")
    await age(gates, theirs, 20)
    server = await serve(spool_max_bytes=Size(len(gated_csv())), export_ttl=Duration(3600), **gates.settings)
    ours, newer = [await completed(session, server, dataset="gated") for _ in range(2)]
    assert server.files() == {newer.file_name}
    async with session.get(ours.download) as response:
        await read_problem(response, 410)
    await age(gates, newer, 2)
    await server.holds()
    assert other.files() == {theirs.file_name}
    assert sha256(await theirs.body()) == gated_sha256()
    assert (await theirs.status())["removedAt"] is None


async def test_a_server_without_the_file_refuses_get_and_head_with_the_reason(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    here, there = await serve(), await serve(export_storage_path=tmp_path / "other")
    export = await completed(session, here, columns="id")
    for method in ("GET", "HEAD"):
        async with session.request(method, asked_of(there, export).download) as response:
            assert (response.status, int(response.headers["Retry-After"]) > 0) == (503, True)
            if method == "GET":
                assert (await read_problem(response, 503))["detail"] == ELSEWHERE
        async with session.request(method, export.download) as response:
            assert response.status == 200
    (here.spool / export.file_name).unlink()
    for method in ("GET", "HEAD"):
        async with session.request(method, export.download) as response:
            assert response.status == 410


async def test_a_file_is_removed_by_its_server_when_the_export_is_deleted_through_another(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    here, there = await serve(), await serve(export_storage_path=tmp_path / "other")
    export, kept = [await completed(session, here, columns="id") for _ in range(2)]
    assert await asked_of(there, export).delete() == 204
    status = await export.status()
    assert (status["status"], status["removedAt"] is None, "download" in status["links"]) == ("completed", False, False)
    await here.holds(kept)
    for server in (here, there):
        async with session.get(asked_of(server, export).download) as response:
            await read_problem(response, 410)


async def test_a_part_of_a_file_is_removed_when_the_export_is_run_in_another_folder(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    here, there = await serve(**gates.settings), await serve(export_storage_path=tmp_path / "other", **gates.settings)
    export = await create(session, there.url, dataset="gated")
    await gates.reached("gated", 50_000)
    part = here.spool / export.file_name
    part.write_bytes(gated_csv()[:1000])
    await here.holds()
    await gates.open("gated", 50_000)
    await export.until("completed")
    part.write_bytes(gated_csv()[:1000])
    await here.holds()
    part.write_bytes(gated_csv())  # the administrator brings the folders together: all of it is a file like any other
    await turns(session, here)
    assert sha256(await asked_of(here, export).body()) == gated_sha256()


async def test_an_export_of_an_older_version_belongs_to_the_folder_in_which_its_file_is(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await serve(export_storage_path=tmp_path / "other", export_ttl=Duration(3600))
    server = await serve()
    export = await completed(session, server, columns="id")
    await gates.connection.execute("UPDATE streamer.exports SET folder = NULL")
    await age(gates, export, 2)
    await turns(session, server)
    assert sha256(await export.body()) == users_sha256()
    await age(gates, export, 24)
    await server.holds()


async def test_exports_run_at_once_by_servers_with_folders_of_their_own_are_whole(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    servers = [await serve(export_storage_path=tmp_path / name) for name in "ab"]
    exports = await asyncio.gather(*(completed(session, server, columns="id") for server in servers for _ in range(4)))
    for export in exports:
        assert sha256(await export.body()) == users_sha256()
    assert [len(server.files()) for server in servers] == [4, 4]
