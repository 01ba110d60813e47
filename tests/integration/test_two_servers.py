"""Two servers on one database with one folder of spools: no export runs twice, and either server answers for both.

An export that waits is run by any server of its folder; servers of other folders leave it alone, unless none of its own
is alive. A running export can be downloaded only from the server that runs it, a sealed one from both. A cancel through
either server stops the run, and a run that was taken over does not touch the file of the new run.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from streamer.http.download.live import DownloadTimes
from streamer.jobs.recovery import SERVED
from streamer.jobs.times import JobTimes
from streamer.model import ExportSpec
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.servers import PREFIX
from tests.conftest import Configure, Gated, Serve, files_in, users_sha256
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv, gated_sha256
from tests.polling import until

ATTENTIVE = Tuning(jobs=JobTimes(renewal=timedelta(seconds=0.1)))
"""Servers renew their leases and look for orphans every 0.1 s."""

attentive = pytest.mark.parametrize("tuning", [ATTENTIVE], ids=["attentive"])


def asked_of(server: str, export: RemoteExport) -> RemoteExport:
    return RemoteExport(export.session, server, export.id)


async def expire_leases(gates: Gates) -> None:
    await gates.connection.execute("UPDATE streamer.exports SET lease_until = '-infinity'")


async def refused(export: RemoteExport, status: int) -> dict[str, str]:
    """Returns the problem that refuses a download, and its Retry-After."""
    async with export.session.get(export.download) as response:
        problem = await read_problem(response, status)
        return {**problem, "Retry-After": response.headers.get("Retry-After", "")}


@attentive
async def test_the_exports_of_a_dead_server_are_shared_and_none_runs_twice(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    servers = [await serve(max_concurrent_exports=2) for _ in range(2)]
    dead, exports = uuid4(), [uuid4() for _ in range(16)]
    spec = ExportSpec(dataset="users", columns=("id",)).to_json()
    await gates.connection.executemany(
        "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, attempts)"
        " VALUES ($1, 'processing', $2, $3, clock_timestamp(), 1)",
        [(export_id, spec, dead) for export_id in exports],
    )
    (servers[0].spool / f"{PREFIX}{dead}").touch()
    for export_id in exports:
        found = RemoteExport(session, servers[0].url, str(export_id))
        status = await found.until("completed")
        assert (status["attempts"], status["sha256"]) == (2, users_sha256())
        assert [sha256(await asked_of(server.url, found).body()) for server in servers] == [
            users_sha256(),
            users_sha256(),
        ]
    assert servers[0].files() == {f"{export_id}.csv" for export_id in exports}


async def test_the_exports_of_two_servers_are_run_once_by_any_of_them(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    servers = [await serve(max_concurrent_exports=2) for _ in range(2)]
    exports = [await create(session, servers[number % 2].url, columns="id") for number in range(12)]
    for export in exports:
        status = await export.until("completed")
        assert (status["attempts"], status["sha256"]) == (1, users_sha256())
    rows = await gates.connection.fetch("SELECT server_id, epoch FROM streamer.exports")
    assert {row["epoch"] for row in rows} == {1}
    assert len({row["server_id"] for row in rows}) == 2


async def test_a_free_server_runs_what_a_busy_one_of_its_folder_has_accepted(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.view("quick", rows=1000)
    await gates.shut("gated", 50_000)
    busy = await serve(max_concurrent_exports=1, **gates.settings)
    running = await create(session, busy.url, dataset="gated")
    await gates.reached("gated", 50_000)
    waiting = await create(session, busy.url, dataset="quick")
    assert (await waiting.status())["waitingFor"] == "place"
    free = await serve(max_concurrent_exports=1, **gates.settings)
    for server in (busy, free):
        other = asked_of(server.url, waiting)
        assert (await other.until("completed"))["sha256"] == sha256(gated_csv(1000))
        assert sha256(await other.body()) == sha256(gated_csv(1000))
    assert (await running.status())["status"] == "processing"
    await gates.open("gated", 50_000)
    await running.until("completed")


async def test_a_follower_of_a_waiting_export_that_another_server_begins_gets_503(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    """Nothing was sent to it, so it may ask again, there or here."""
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    patient = Tuning(downloads=DownloadTimes(first_rows=60.0), jobs=JobTimes(poll_interval=0.1))
    busy = await serve(max_concurrent_exports=1, tuning=patient, **gates.settings)
    running = await create(session, busy.url, dataset="gated")
    await gates.reached("gated", 50_000)
    waiting = await create(session, busy.url, dataset="gated")
    following = asyncio.create_task(refused(waiting, 503))
    streaming = asyncio.create_task(session.get(f"{busy.url}/exports/csv", params={"dataset": "gated"}))
    await until(lambda: waits(gates, 2), "two exports wait")
    free = await serve(max_concurrent_exports=2, tuning=patient, **gates.settings)
    problem = await following
    assert "another server" in problem["detail"]
    assert int(problem["Retry-After"]) > 0
    async with await streaming as response:
        await read_problem(response, 503)
        streamed = RemoteExport(session, free.url, response.headers["X-Export-Id"])
    await gates.open("gated", 50_000)
    for export in (asked_of(free.url, waiting), streamed, running):
        assert (await export.until("completed"))["sha256"] == gated_sha256()
        assert sha256(await export.body()) == gated_sha256()


async def test_a_follower_of_a_waiting_export_that_another_server_has_completed_gets_the_file(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.view("quick", rows=1000)
    await gates.shut("gated", 50_000)
    deaf = JobTimes(poll_interval=2.0, session_timeout=0.0)  # it hears no announcement in time
    patient = Tuning(downloads=DownloadTimes(first_rows=60.0), jobs=deaf)
    busy = await serve(max_concurrent_exports=1, tuning=patient, **gates.settings)
    running = await create(session, busy.url, dataset="gated")
    await gates.reached("gated", 50_000)
    waiting = await create(session, busy.url, dataset="quick")
    following = asyncio.create_task(waiting.body())
    free = await serve(**gates.settings)
    await asked_of(free.url, waiting).until("completed")
    assert sha256(await following) == sha256(gated_csv(1000))
    await gates.open("gated", 50_000)
    await running.until("completed")


async def waits(gates: Gates, count: int) -> bool:
    """Whether so many exports wait."""
    found = await gates.connection.fetchval("SELECT count(*) FROM streamer.exports WHERE state = 'pending'")
    return bool(found == count)


async def test_a_server_of_another_folder_leaves_what_waits_to_its_own_servers_while_one_is_alive(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await gates.view("gated")
    await gates.view("quick", rows=1000)
    await gates.shut("gated", 50_000)
    own = await serve(max_concurrent_exports=1, **gates.settings)
    running = await create(session, own.url, dataset="gated")
    await gates.reached("gated", 50_000)
    waiting = await create(session, own.url, dataset="quick")
    quick = JobTimes(renewal=timedelta(seconds=0.05), poll_interval=0.05)
    other = await serve(export_storage_path=tmp_path / "other", tuning=Tuning(jobs=quick), **gates.settings)
    theirs = await create(session, other.url, dataset="quick")
    await theirs.until("completed")
    assert (await waiting.status())["status"] == "pending"
    await gates.open("gated", 50_000)
    for export in (running, waiting):
        await export.until("completed")
    assert own.files() == {running.file_name, waiting.file_name}
    assert other.files() == {theirs.file_name}


@attentive
async def test_a_server_of_another_folder_adopts_what_waits_when_no_other_is_alive(
    configure: Configure, serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    async with serving(configure(max_concurrent_exports=1, **gates.settings), tuning=ATTENTIVE) as leaving:
        exports = [await create(session, leaving, dataset="gated") for _ in range(2)]
        await gates.reached("gated", 50_000)
    other = await serve(export_storage_path=tmp_path / "other", max_concurrent_exports=1, **gates.settings)
    await gates.open("gated", 50_000)
    for export in exports:
        found = asked_of(other.url, export)
        assert (await found.until("completed"))["sha256"] == gated_sha256()
        assert sha256(await found.body()) == gated_sha256()
    assert other.files() == {export.file_name for export in exports}


async def test_no_more_exports_run_on_all_servers_than_the_source_may_serve(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    servers = [await serve(source_exports=1, **gates.settings) for _ in range(2)]
    exports = [await create(session, server.url, dataset="gated") for server in servers]
    await gates.reached("gated", 50_000)
    assert [(await export.status())["waitingFor"] for export in exports] == [None, "place"]
    await gates.open("gated", 50_000)
    for export in exports:
        assert (await export.until("completed"))["sha256"] == gated_sha256()
    first, second = [await export.status() for export in exports]
    assert second["startedAt"] >= first["completedAt"]


async def test_a_download_from_the_other_server_is_refused_until_the_export_is_sealed(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    first, second = [await serve(max_concurrent_exports=1, **gates.settings) for _ in range(2)]
    running = await create(session, first.url, dataset="gated")
    await gates.reached("gated", 50_000)
    others = await create(session, second.url, dataset="gated")
    await others.until("processing")
    waiting = await create(session, first.url, dataset="gated")
    for export, state in ((running, "processing"), (waiting, "pending")):
        other = asked_of(second.url, export)
        assert (await other.status())["status"] == state
        problem = await refused(other, 503)
        assert "another server" in problem["detail"]
        assert int(problem["Retry-After"]) > 0
    await gates.open("gated", 50_000)
    for export in (running, waiting):
        other = asked_of(second.url, export)
        assert (await other.until("completed"))["sha256"] == gated_sha256()
        assert sha256(await other.body()) == sha256(await export.body()) == gated_sha256()
        async with session.get(other.download, headers={"Range": "bytes=1000-1999"}) as response:
            assert response.status == 206
            assert sha256(await response.read()) == sha256(gated_csv()[1000:2000])


async def test_a_cancel_through_the_other_server_stops_the_run_and_breaks_its_followers(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    first, second = [await serve(**gates.settings) for _ in range(2)]
    export = await create(session, first.url, dataset="gated")
    async with session.get(export.download) as follower:
        await follower.content.readexactly(1000)
        await gates.reached("gated", 90_000)
        assert await asked_of(second.url, export).delete() == 204
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
    await gates.nobody_works()
    for server in (first, second):
        assert (await asked_of(server.url, export).status())["status"] == "cancelled"
        assert "cancelled" in (await refused(asked_of(server.url, export), 410))["detail"]
    await first.holds()
    await gates.open("gated", 90_000)
    assert sha256(await (await create(session, first.url, dataset="gated")).body()) == gated_sha256()


@attentive
async def test_a_cancel_through_the_other_server_frees_the_queue_and_breaks_followers(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    first, second = [await serve(max_concurrent_exports=1, max_queued_exports=1, **gates.settings) for _ in range(2)]
    running = [await create(session, server.url, dataset="gated") for server in (first, second)]
    for export in running:
        await export.until("processing")
    queued = await create(session, first.url, dataset="gated")
    async with session.get(queued.download) as follower:
        assert follower.status == 200
        assert await asked_of(second.url, queued).delete() == 204
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
    assert "cancelled" in (await refused(queued, 410))["detail"]
    instead = await create(session, first.url, dataset="gated")  # there is a place for it
    await gates.open("gated", 90_000)
    for export in (*running, instead):
        assert (await export.until("completed"))["sha256"] == gated_sha256()
    assert (await queued.status())["startedAt"] is None


async def test_a_download_ends_well_when_the_other_server_deletes_the_export(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    tuning = Tuning(jobs=JobTimes(cache_lifetime=0.1))
    first, second = await serve(tuning=tuning), await serve(tuning=tuning)
    export = await create(session, first.url)
    expected = (await export.until("completed"))["sha256"]
    async with session.get(export.download) as follower:
        begun = await follower.content.readexactly(1000)
        assert await asked_of(second.url, export).delete() == 204
        assert sha256(begun + await follower.read()) == expected
    assert first.files() == set()

    async def gone() -> bool:
        async with session.get(export.download) as response:
            return response.status == 410

    await until(gone, "the other server knows")
    assert await export.delete() == 204


@attentive
async def test_the_exports_of_a_server_that_stops_are_run_by_the_other_at_once(
    configure: Configure,
    serve: Serve,
    gates: Gates,
    session: aiohttp.ClientSession,
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    staying = await serve(max_concurrent_exports=1, **gates.settings)
    async with serving(configure(max_concurrent_exports=1, **gates.settings), tuning=ATTENTIVE) as leaving:
        exports = [await create(session, leaving, dataset="gated") for _ in range(2)]
        await gates.reached("gated", 50_000)
    await gates.reached("gated", 50_000)
    await gates.open("gated", 50_000)
    for export in exports:
        other = asked_of(staying.url, export)
        status = await other.until("completed")
        assert (status["attempts"], status["sha256"]) == (1, gated_sha256())
        assert sha256(await other.body()) == gated_sha256()
    assert staying.files() == {export.file_name for export in exports}


async def test_a_run_that_was_taken_over_ends_and_does_not_touch_the_file_of_the_new_run(
    serve: Serve, gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    slow, export = await gated(90_000)  # it reads its leases every ten seconds
    backend = await gates.reached("gated", 90_000)
    await expire_leases(gates)
    quick = await serve(tuning=ATTENTIVE, **gates.settings)
    other = asked_of(quick.url, export)

    async def taken_over() -> bool:
        stands = await gates.reached("gated", 90_000)
        return stands != backend and (await other.status())["attempts"] == 2

    await until(taken_over, "the export is run by the other server alone")

    async def given_up() -> bool:
        """Until then it serves no byte of its own run."""
        async with session.get(export.download) as response:
            if response.status == 503:
                return True
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.readexactly(1)
            return False

    await until(given_up, "the run that was taken over has given up")
    async with session.get(other.download) as follower:
        first = await follower.content.readexactly(1000)
        await gates.open("gated", 90_000)
        assert sha256(first + await follower.read()) == gated_sha256()
    assert (await export.until("completed"))["sha256"] == gated_sha256()
    assert sha256(await export.body()) == sha256(await other.body()) == gated_sha256()
    assert files_in(slow.spool) == {export.file_name}


async def test_a_served_run_with_an_expired_lease_is_failed_by_the_other_server(
    serve: Serve, gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    slow, export = await gated(90_000)
    async with session.get(export.download) as follower:
        await follower.content.readexactly(1000)
        await gates.reached("gated", 90_000)
        await expire_leases(gates)
        quick = await serve(**gates.settings)  # it settles orphans when it starts
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
    for server in (slow, quick):
        assert (await asked_of(server.url, export).until("failed"))["error"] == SERVED
        assert SERVED in (await refused(asked_of(server.url, export), 409))["detail"]
    await gates.nobody_works()
    assert files_in(slow.spool) == set()


async def test_keys_are_known_to_both_servers(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> None:
    servers = await serve(), await serve()

    async def post(server: str) -> str:
        async with session.post(
            f"{server}/exports/csv", params={"columns": "id"}, headers={"Idempotency-Key": "one"}
        ) as response:
            assert response.status == 202
            export_id: str = (await response.json())["exportId"]
            return export_id

    ids = await asyncio.gather(*(post(server.url) for server in servers for _ in range(5)))
    assert len(set(ids)) == 1
    assert await gates.connection.fetchval("SELECT count(*) FROM streamer.exports") == 1
    for server in servers:
        export = RemoteExport(session, server.url, ids[0])
        await export.until("completed")
        assert sha256(await export.body()) == users_sha256()
