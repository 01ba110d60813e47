"""The life of an export as its clients see it: cancelled, deleted, failed, abandoned, cut off by the end of its server.

Whatever ends an export early must look truncated to every follower, be told by its status, and leave no file behind.
What nobody has a byte of when its server ends is run by the next one.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import aiohttp
import pytest

from streamer.client import Client
from streamer.http.download.live import DownloadTimes
from streamer.jobs.recovery import EXHAUSTED, SERVED
from streamer.jobs.times import JobTimes
from streamer.model import ExportSpec
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.source.source import CursorChoice
from tests import seeds
from tests.conftest import ROWS, Configure, Gated, Serve, Server, connected, files_and_locks, files_in
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE, until
from tests.proxy import proxied
from tests.rawhttp import Body, End, connection

FINAL_CHUNK = b"0\r\n\r\n"
SOON = 10.0  # seconds for the end of a server that has nobody to wait for
NEARLY = 89_000  # rows: whoever has read these has read all that there is while the export stands at row 90,000
both_cursors = pytest.mark.parametrize("cursor", [CursorChoice.COPY, CursorChoice.FETCH])


patient_headers = pytest.mark.parametrize(
    "tuning", [Tuning(downloads=DownloadTimes(first_rows=PATIENCE))], ids=["patient headers"]
)
"""The headers of a download wait for the first row, or for an end without one, however long that takes."""


@asynccontextmanager
async def following(export: RemoteExport, *, rows: int = 100) -> AsyncIterator[aiohttp.ClientResponse]:
    """A follower that has the first rows. The rest of what it is sent it reads only in so far as a buffer takes it."""
    async with export.session.get(export.download) as response:
        assert response.status == 200
        await response.content.readexactly(len(gated_csv(rows)))
        yield response


@asynccontextmanager
async def stuck(export: RemoteExport) -> AsyncIterator[Body]:
    """A follower that has read the headers, then nothing, through buffers that are small on its side."""
    async with connection(export.server, receive=4096) as wire:
        await wire.send("GET", export.path, {"Connection": "close"})
        head, body = await wire.begin()
        assert (head.status, head["Transfer-Encoding"]) == (200, "chunked")
        yield body


async def assert_broken(response: aiohttp.ClientResponse) -> None:
    """The body ends without its final chunk."""
    with pytest.raises(aiohttp.ClientPayloadError):
        await asyncio.wait_for(response.read(), PATIENCE)


async def assert_closed(body: Body) -> None:
    """The connection is closed between two chunks: within one that would pass for a whole body with some clients."""
    assert await body.finish() is End.CLOSED


async def gone(export: RemoteExport, status: int) -> str:
    """The sentence with which a download is refused."""
    async with export.session.get(export.download) as response:
        sentence: str = (await read_problem(response, status))["detail"]
        return sentence


@both_cursors
async def test_cancel_in_the_middle_breaks_the_followers_and_leaves_nothing(
    gated: Gated, gates: Gates, cursor: CursorChoice
) -> None:
    server, export = await gated(90_000, export_method=cursor)
    async with (
        following(export) as behind,
        following(export, rows=NEARLY) as level,
        stuck(export) as still,
        connection(server.url) as by_hand,
    ):
        await by_hand.send("GET", export.path, {"Connection": "close"})
        await by_hand.reader.readexactly(len(gated_csv(NEARLY)))
        await gates.reached("gated", 90_000)
        assert (server.spool / export.file_name).exists()
        assert await export.delete() == 204
        assert not (server.spool / export.file_name).exists()
        await gates.nobody_works()
        await assert_broken(behind)
        await assert_broken(level)
        await assert_closed(still)
        rest = await by_hand.rest()
        assert rest.endswith(b"\r\n")  # at the end of a chunk, where wget knows to come back for the rest
        assert not rest.endswith(FINAL_CHUNK)
        assert not by_hand.reset
    status = await export.status()
    assert (status["status"], status["sha256"]) == ("cancelled", None)
    assert status["progress"]["percentage"] < 100
    assert "cancelled" in await gone(export, 410)
    assert await export.delete() == 204
    assert "cancelled" in await gone(export, 410)
    assert server.files() == set()


async def test_cancel_while_the_query_has_no_row_yet_ends_the_query(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, export = await gated(1)
    await gates.reached("gated", 1)
    assert await export.delete() == 204
    await gates.nobody_works()
    assert (await export.status())["status"] == "cancelled"
    assert server.files() == set()
    await gates.open("gated", 1)
    again = await create(session, server.url, dataset="gated")
    assert sha256(await again.body()) == sha256(gated_csv())


@patient_headers
async def test_cancel_while_queued_never_starts_it_and_the_next_one_takes_its_place(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, first = await gated(50_000, max_concurrent_exports=1)
    await gates.reached("gated", 50_000)
    cancelled, last = [await create(session, server.url, dataset="gated") for _ in range(2)]
    async with connection(server.url) as waiting:
        await waiting.send("GET", cancelled.path)
        assert await cancelled.delete() == 204
        assert (await waiting.begin())[0].status == 410
    assert [(await export.status())["status"] for export in (first, cancelled, last)] == [
        "processing",
        "cancelled",
        "pending",
    ]
    await gates.open("gated", 50_000)
    for export in (first, last):
        assert (await export.until("completed"))["sha256"] == sha256(gated_csv())
    status = await cancelled.status()
    assert (status["status"], status["startedAt"]) == ("cancelled", None)
    assert "cancelled" in await gone(cancelled, 410)


async def test_cancel_while_queued_breaks_a_follower_that_has_its_headers(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 1)
    server = await serve(max_concurrent_exports=1, **gates.settings)
    await create(session, server.url, dataset="gated")
    await gates.reached("gated", 1)
    queued = await create(session, server.url, dataset="gated")
    async with session.get(queued.download) as follower:
        assert follower.status == 200
        assert await queued.delete() == 204
        await assert_broken(follower)


async def test_deleting_a_completed_export_removes_its_file(server: Server, session: aiohttp.ClientSession) -> None:
    export = await create(session, server.url, columns="id")
    status = await export.until("completed")
    expected = sha256(seeds.csv_bytes(seeds.rows(ROWS), ["id"]))
    assert status["sha256"] == expected
    assert server.files() == {export.file_name}
    assert await export.delete() == 204
    assert server.files() == set()
    assert "deleted" in await gone(export, 410)
    assert await export.delete() == 204
    after = await export.status()
    assert (after["status"], after["sha256"]) == ("completed", expected)


async def test_deleting_a_completed_export_lets_a_download_under_way_end_whole(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    await export.until("completed")
    async with connection(server.url, receive=4096) as slow:
        await slow.send("GET", export.path)
        head, body = await slow.begin()
        assert head.status == 200
        assert await export.delete() == 204
        assert sha256(await body.whole()) == sha256(gated_csv())


async def test_deleting_an_unknown_export_is_404(server: Server, session: aiohttp.ClientSession) -> None:
    assert await RemoteExport(session, server.url, str(uuid4())).delete() == 404


async def test_twelve_deletes_at_once_are_all_204_and_one_cancellation(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, export = await gated(50_000)
    async with following(export) as follower:
        await gates.reached("gated", 50_000)
        assert await asyncio.gather(*(export.delete() for _ in range(12))) == [204] * 12
        await assert_broken(follower)
    assert (await export.status())["status"] == "cancelled"
    await gates.nobody_works()
    assert server.files() == set()
    await gates.open("gated", 50_000)
    assert sha256(await (await create(session, server.url, dataset="gated")).body()) == sha256(gated_csv())


async def test_the_other_dialect_creates_and_cancels_jobs(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    server = await serve(**gates.settings)
    async with session.post(f"{server.url}/exports", json={"dataset": "gated"}) as created:
        assert created.status == 202
        job = await created.json()
    assert job == {"jobId": job["jobId"], "exportId": job["jobId"], "status": "pending"}
    export = RemoteExport(session, server.url, job["jobId"])
    async with following(export) as follower:
        await gates.reached("gated", 50_000)
        for _ in range(2):
            async with session.post(f"{export.resource}/cancel") as cancelled:
                assert cancelled.status == 200
                assert await cancelled.json() == {**job, "status": "cancelled"}
        await assert_broken(follower)
    assert (await export.status())["status"] == "cancelled"
    assert server.files() == set()


async def test_a_cancel_leaves_what_is_finished_as_it_is(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated", rows=20_000)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    await export.until("completed")
    for _ in range(2):
        async with session.post(f"{export.resource}/cancel") as answer:
            assert answer.status == 200
            assert await answer.json() == {"jobId": export.id, "exportId": export.id, "status": "completed"}
    async with session.get(export.download) as response:
        assert sha256(await response.read()) == sha256(gated_csv(20_000))
    async with Client(server.url) as client:
        assert (await client.get(export.id).cancel()).status == "completed"
    assert server.files() == {export.file_name}


async def test_a_cancel_whose_client_leaves_before_the_answer_is_done_wholly(
    configure: Configure,
    gates: Gates,
    session: aiohttp.ClientSession,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never_later = Tuning(jobs=JobTimes(renewal=timedelta(hours=1), report_interval=3600.0))
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    async with (
        proxied(database) as proxy,
        serving(configure(database_url=proxy.url, **gates.settings), tuning=never_later) as url,
    ):
        export = await create(session, url, dataset="gated")
        async with following(export) as follower:
            await gates.reached("gated", 50_000)
            proxy.hold_answer_to("SET state = 'cancelled'")
            async with connection(url) as hasty:
                await hasty.send("DELETE", f"/exports/{export.id}")
                await asyncio.wait_for(proxy.holding.wait(), PATIENCE)

                async def cancelled() -> bool:
                    state = await gates.connection.fetchval("SELECT state FROM streamer.exports")
                    return bool(state == "cancelled")

                await until(cancelled, "the database has cancelled the export")
            proxy.release()
            try:
                await assert_broken(follower)
                await gates.nobody_works()
            finally:
                await gates.open("gated", 50_000)  # a run that goes on would keep the server from stopping
        assert (await export.status())["status"] == "cancelled"


async def test_a_cancel_while_the_export_is_sealed_breaks_its_followers_and_leaves_nothing(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gates.view("gated", rows=20_000)
    sealing, sealed = threading.Event(), threading.Event()

    def slow_sync(fd: int) -> None:
        sealing.set()
        assert sealed.wait(PATIENCE)

    server = await serve(**gates.settings)
    monkeypatch.setattr(os, "fsync", slow_sync)
    export = await create(session, server.url, dataset="gated")
    async with following(export, rows=20_000) as follower:
        assert await asyncio.to_thread(sealing.wait, PATIENCE)
        deleting = [asyncio.create_task(export.delete()) for _ in range(2)]
        await export.until("cancelled")
        sealed.set()
        await assert_broken(follower)
        assert await asyncio.gather(*deleting) == [204, 204]
    assert "cancelled" in await gone(export, 410)
    await server.holds()


async def test_a_cancel_that_comes_after_the_row_was_completed_deletes_the_file(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession, database: str
) -> None:
    await gates.view("gated", rows=20_000)
    settings = configure(**gates.settings)
    async with proxied(database) as proxy, serving(configure(database_url=proxy.url, **gates.settings)) as url:
        proxy.hold_answer_to("SET state = 'completed'")
        export = await create(session, url, dataset="gated")
        async with following(export) as follower:
            await asyncio.wait_for(proxy.holding.wait(), PATIENCE)

            async def completed() -> bool:
                return bool(await gates.connection.fetchval("SELECT state FROM streamer.exports") == "completed")

            await until(completed, "the database has completed the export")
            deleting = asyncio.create_task(export.delete())
            proxy.release()
            assert sha256(gated_csv(100) + await follower.read()) == sha256(gated_csv(20_000))
            assert await deleting == 204
        assert (await export.status())["status"] == "completed"
        assert "deleted" in await gone(export, 410)
        assert files_in(settings.export_storage_path) == set()


@both_cursors
async def test_a_database_error_in_the_middle_fails_the_export_with_its_reason(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, cursor: CursorChoice
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    await gates.dataset("failing", "SELECT id, text, 1 / (id - 100000) AS quotient FROM gated")
    server = await serve(export_method=cursor, **gates.settings)
    export = await create(session, server.url, dataset="failing")
    async with following(export) as follower, stuck(export) as still:
        await gates.reached("gated", 90_000)
        await gates.open("gated", 90_000)
        await assert_broken(follower)
        await assert_closed(still)
        status = await export.status()  # whoever sees the break finds the reason
    assert (status["status"], status["error"]) == ("failed", "PostgreSQL: division by zero")
    assert status["progress"]["percentage"] < 100
    assert "division by zero" in await gone(export, 409)
    await server.holds()
    await gates.nobody_works()


@patient_headers
async def test_a_relation_that_is_gone_is_refused_before_there_is_an_export(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    server = await serve(**gates.settings)
    await gates.connection.execute("DROP VIEW gated")
    for method in ("POST", "GET"):
        async with session.request(method, f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
            assert "there is no dataset 'gated'" in (await read_problem(response, 400))["detail"]
    async with session.get(f"{server.url}/exports") as response:
        assert (await response.json())["exports"] == []
    await server.holds()


@both_cursors
@patient_headers
@pytest.mark.parametrize("streamed", [False, True], ids=["by_id", "streamed"])
async def test_an_error_before_the_first_row_is_a_409_and_not_a_body(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, cursor: CursorChoice, streamed: bool
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 1)
    await gates.dataset("failing", "SELECT 1 / (id - 1) AS quotient FROM gated")
    server = await serve(export_method=cursor, **gates.settings)
    if streamed:
        asking = asyncio.create_task(answer(session, f"{server.url}/exports/csv?dataset=failing"))
    else:
        export = await create(session, server.url, dataset="failing")
        asking = asyncio.create_task(answer(session, export.download))
    await gates.reached("gated", 1)
    await gates.open("gated", 1)
    status, text = await asking
    assert status == 409
    assert "division by zero" in text


async def answer(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """The status and, of an answer other than 200, the text."""
    async with session.get(url) as response:
        return response.status, "" if response.status == 200 else await response.text()


@both_cursors
async def test_a_killed_backend_fails_an_export_that_was_served_and_the_next_one_runs(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession, cursor: CursorChoice
) -> None:
    server, export = await gated(90_000, max_concurrent_exports=1, export_method=cursor)
    async with following(export, rows=NEARLY) as follower, stuck(export) as still:
        backend = await gates.reached("gated", 90_000)
        assert await gates.connection.fetchval("SELECT pg_terminate_backend($1)", backend)
        await assert_broken(follower)
        await assert_closed(still)
    status = await export.status()
    assert (status["status"], status["attempts"]) == ("failed", 1)
    assert "connection" in status["error"]
    assert status["error"] in await gone(export, 409)
    await server.holds()
    await gates.open("gated", 90_000)
    assert sha256(await (await create(session, server.url, dataset="gated")).body()) == sha256(gated_csv())


async def test_a_streamed_export_is_cancelled_once_nobody_follows_it(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    server = await serve(abandoned_export_timeout=0.3, **gates.settings)
    async with AsyncExitStack() as stack:
        left, followed = [await stack.enter_async_context(streaming(session, server)) for _ in range(2)]
        abandoned = RemoteExport(session, server.url, left.headers["X-Export-Id"])
        kept = RemoteExport(session, server.url, followed.headers["X-Export-Id"])
        other = await stack.enter_async_context(following(kept))
        followed.close()
        left.close()
        # The one without a follower is the clock for the other: their first clients left at the same time.
        await abandoned.until("cancelled")
        await server.holds(kept)
        assert (await kept.status())["status"] == "processing"
        await gates.open("gated", 50_000)
        rest = await other.read()
    assert sha256(gated_csv(100) + rest) == sha256(gated_csv())
    assert (await kept.until("completed"))["sha256"] == sha256(gated_csv())
    assert "cancelled" in await gone(abandoned, 410)


async def test_an_export_that_was_posted_is_not_abandoned(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, posted = await gated(50_000, abandoned_export_timeout=0.2)
    async with following(posted) as follower:
        follower.close()
    async with streaming(session, server) as left:
        clock = RemoteExport(session, server.url, left.headers["X-Export-Id"])
        left.close()
    await clock.until("cancelled")
    assert (await posted.status())["status"] == "processing"
    await gates.open("gated", 50_000)
    assert (await posted.until("completed"))["sha256"] == sha256(gated_csv())


async def test_a_streamed_export_that_is_queued_is_cancelled_once_its_client_has_left(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 1)
    server = await serve(max_concurrent_exports=1, abandoned_export_timeout=0.1, **gates.settings)
    await create(session, server.url, dataset="gated")
    await gates.reached("gated", 1)
    async with session.get(f"{server.url}/exports/csv", params={"dataset": "gated"}) as left:
        abandoned = RemoteExport(session, server.url, left.headers["X-Export-Id"])
        assert (await abandoned.status())["status"] == "pending"
        left.close()
    assert (await abandoned.until("cancelled"))["startedAt"] is None


@asynccontextmanager
async def streaming(session: aiohttp.ClientSession, server: Server) -> AsyncIterator[aiohttp.ClientResponse]:
    """`GET /exports/csv` of the gated view, with its first bytes read."""
    async with session.get(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
        assert response.status == 200
        await response.content.readexactly(10_000)
        yield response


async def test_a_server_that_stops_breaks_the_followers_and_leaves_what_nobody_has_to_the_next(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    settings = configure(max_concurrent_exports=2, **gates.settings)
    async with AsyncExitStack() as followers:
        async with serving(settings) as url:
            served, unserved, queued = [await create(session, url, dataset="gated") for _ in range(3)]
            behind = await followers.enter_async_context(following(served))
            level = await followers.enter_async_context(following(served, rows=NEARLY))
            still = await followers.enter_async_context(stuck(served))
            waiting = await followers.enter_async_context(session.get(queued.download))
            assert [(await export.status())["attempts"] for export in (served, unserved, queued)] == [1, 1, 0]
            await gates.reached("gated", 90_000)
            stopping = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopping < SOON
        for broken in (behind, level, waiting):
            await assert_broken(broken)
        await assert_closed(still)
    assert files_and_locks(settings.export_storage_path) == set()
    await gates.nobody_works()
    rows = {str(row["id"]): row for row in await gates.connection.fetch("SELECT * FROM streamer.exports")}
    assert rows.keys() == {served.id, unserved.id, queued.id}
    assert (rows[served.id]["state"], rows[served.id]["finished_at"] is None) == ("failed", False)
    assert "the server was stopped" in rows[served.id]["error"]
    for export in (unserved, queued):
        row = rows[export.id]
        assert (row["state"], row["attempts"], row["bytes"], row["finished_at"]) == ("pending", 0, 0, None)
    await gates.open("gated", 90_000)
    async with serving(settings) as url:
        assert "the server was stopped" in await gone(RemoteExport(session, url, served.id), 409)
        for export in (unserved, queued):
            again = RemoteExport(session, url, export.id)
            assert (await again.until("completed"))["attempts"] == 1
            assert sha256(await again.body()) == sha256(gated_csv())


async def test_a_completed_export_is_served_after_a_restart(
    configure: Configure, session: aiohttp.ClientSession
) -> None:
    async with serving(configure()) as url:
        export = await create(session, url)
        before = await export.until("completed")
    async with serving(configure()) as url:
        again = RemoteExport(session, url, export.id)
        assert sha256(await again.body()) == before["sha256"]
        assert await again.status() == before


async def test_a_restart_runs_again_what_a_dead_server_left_and_touches_nothing_else(
    configure: Configure, database: str, session: aiohttp.ClientSession
) -> None:
    settings = configure()
    folder = settings.export_storage_path
    async with serving(settings) as url:
        completed = await create(session, url, columns="id")
        await completed.until("completed")
    processing, pending, served, exhausted, alive, unknown = (uuid4() for _ in range(6))
    spec = ExportSpec(dataset="users", columns=("id",)).to_json()
    async with connected(database) as connection:
        for export_id, state, lease, attempts, was_served in (
            (processing, "processing", "-1 second", 2, False),
            (pending, "pending", "-1 second", 0, False),
            (served, "processing", "-1 second", 1, True),
            (exhausted, "processing", "-1 second", 3, False),
            (alive, "processing", "1 hour", 1, False),
        ):
            await connection.execute(
                "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, attempts, served)"
                " VALUES ($1, $2, $3, $4, clock_timestamp() + $5::text::interval, $6, $7)",
                *(export_id, state, spec, uuid4(), lease, attempts, was_served),
            )
    foreign = {"notes.txt", "report.csv", f"{uuid4().hex}.csv", f"{str(uuid4()).upper()}.csv", f"{uuid4()}.csv.bak"}
    with_files = (processing, served, exhausted, alive, unknown)
    for name in {*foreign, *(f"{export_id}.csv" for export_id in with_files)}:
        (folder / name).write_bytes(b"id\n1\n")
    expected = sha256(seeds.csv_bytes(seeds.rows(ROWS), ["id"]))
    async with serving(settings) as url:
        for export_id, attempts in ((processing, 3), (pending, 1)):
            again = of_server(session, url, export_id)
            status = await again.until("completed")
            assert (status["attempts"], status["sha256"]) == (attempts, expected)
            assert sha256(await again.body()) == expected
        for export_id, reason in ((served, SERVED), (exhausted, EXHAUSTED)):
            left = of_server(session, url, export_id)
            assert (await left.status())["error"] == reason
            assert reason in await gone(left, 409)
        other = of_server(session, url, alive)
        assert (await other.status())["status"] == "processing"
        async with session.get(other.download) as response:
            await read_problem(response, 503)
            assert int(response.headers["Retry-After"]) > 0
        assert sha256(await of_server(session, url, UUID(completed.id)).body()) == expected
        files = {
            *foreign,
            completed.file_name,
            *(f"{export_id}.csv" for export_id in (alive, processing, pending, unknown)),
        }
        assert files_in(folder) == files
    assert files_and_locks(folder) == files


def of_server(session: aiohttp.ClientSession, url: str, export_id: UUID) -> RemoteExport:
    return RemoteExport(session, url, str(export_id))
