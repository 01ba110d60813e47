"""How long the file of a completed export stays: expiry, eviction for lack of room, and downloads that keep it.

The status shows the time of expiry, a download of a removed file gets 410, and the sweep finishes a removal that was
interrupted between the row and the file, or that the file system refused.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from streamer.config import Duration, Size
from streamer.jobs.retention import FULL
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.identity import NAME
from streamer.spool.writer import WriteLimits
from tests.conftest import Configure, Serve, Server, files_and_locks, files_in
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv, gated_sha256
from tests.polling import until
from tests.rawhttp import Body, connection

HOUR = timedelta(hours=1)
TUNING = Tuning(jobs=JobTimes(cache_lifetime=0.0, sweep_interval=0.05))


@pytest.fixture
def tuning() -> Tuning:
    """Rows are not cached, and the sweep runs every 0.05 s."""
    return TUNING


@pytest.fixture(autouse=True)
async def view(gates: Gates) -> None:
    await gates.view("gated")


async def completed(session: aiohttp.ClientSession, server: Server) -> RemoteExport:
    export = await create(session, server.url, dataset="gated")
    assert (await export.until("completed"))["sha256"] == gated_sha256()
    return export


async def age(gates: Gates, export: RemoteExport, by: timedelta) -> None:
    """Moves the completion and the last use of the export into the past."""
    await gates.connection.execute(
        "UPDATE streamer.exports SET finished_at = finished_at - $2::interval, used_at = used_at - $2::interval"
        " WHERE id = $1",
        UUID(export.id),
        by,
    )


async def status_of_download(export: RemoteExport) -> int:
    async with export.session.get(export.download) as response:
        return response.status


async def assert_gone(export: RemoteExport) -> None:
    async with export.session.get(export.download) as response:
        assert "expired" in (await read_problem(response, 410))["detail"]


@asynccontextmanager
async def reading(export: RemoteExport) -> AsyncIterator[Body]:
    """A download in progress: the client has the head, and reads when the test does."""
    async with connection(export.server, receive=4096) as wire:
        await wire.send("GET", export.path, {"Connection": "close"})
        head, body = await wire.begin()
        assert head.status == 200
        yield body


async def test_a_completed_export_says_when_it_expires_and_is_410_afterwards(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(export_ttl=Duration(3600), **gates.settings)
    export, younger = await completed(session, server), await completed(session, server)
    before = await export.status()
    assert datetime.fromisoformat(before["expiresAt"]) == datetime.fromisoformat(before["completedAt"]) + HOUR
    await age(gates, younger, HOUR - timedelta(minutes=1))
    await age(gates, export, HOUR)
    await server.holds(younger)
    await assert_gone(export)
    after = await export.status()
    assert (after["status"], after["sha256"], after["expiresAt"]) == ("completed", before["sha256"], None)
    assert sha256(await younger.body()) == gated_sha256()
    assert await export.delete() == 204


async def test_only_a_completed_export_expires(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> None:
    await gates.dataset("failing", "SELECT 1 / (id - 1) AS quotient FROM gated")
    await gates.shut("gated", 10_000)
    server = await serve(export_ttl=Duration(0), **gates.settings)
    running = await create(session, server.url, dataset="gated")
    await gates.reached("gated", 10_000)
    cancelled = await create(session, server.url, dataset="gated")
    assert await cancelled.delete() == 204
    failed = await create(session, server.url, dataset="failing")
    await failed.until("failed")
    for export in (running, cancelled, failed):
        assert (await export.status())["expiresAt"] is None
    follower = asyncio.create_task(running.body())
    await gates.open("gated", 10_000)
    assert sha256(await follower) == gated_sha256()
    await server.holds()
    await assert_gone(running)


async def test_an_expired_export_stays_while_it_is_being_downloaded(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(export_ttl=Duration(3600), **gates.settings)
    export, clock = await completed(session, server), await completed(session, server)
    async with reading(export) as body:
        for each in (export, clock):
            await age(gates, each, 2 * HOUR)
        await server.holds(export)
        assert await status_of_download(export) == 200
        assert sha256(await body.whole()) == gated_sha256()
    await server.holds()
    await assert_gone(export)


async def test_the_least_recently_used_exports_are_evicted_first(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(spool_max_bytes=Size(3 * len(gated_csv())), **gates.settings)
    oldest, older, young = [await completed(session, server) for _ in range(3)]
    for hours, export in enumerate((young, older, oldest), start=1):
        await age(gates, export, hours * HOUR)
    assert sha256(await oldest.body()) == gated_sha256()  # and so it has been used the last
    newest = await completed(session, server)
    assert server.files() == {export.file_name for export in (oldest, young, newest)}
    await assert_gone(older)
    for export in (oldest, young, newest):
        assert sha256(await export.body()) == gated_sha256()


async def test_there_is_no_room_when_every_completed_export_is_being_downloaded(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(spool_max_bytes=Size(len(gated_csv())), **gates.settings)
    export = await completed(session, server)
    async with reading(export) as body:
        async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
            assert (await read_problem(response, 507))["detail"] == FULL
        assert sha256(await body.whole()) == gated_sha256()

    async def no_longer_read() -> bool:
        async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
            return response.status == 202

    await until(no_longer_read, "there is room again")
    await assert_gone(export)


async def test_nothing_is_evicted_when_all_evictions_would_not_make_room(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    """Something else fills the disk, or the folder."""
    room = Size(4 * len(gated_csv()))
    server = await serve(spool_max_bytes=room, tuning=replace(TUNING, recount=0.0), **gates.settings)
    exports = [await completed(session, server) for _ in range(2)]
    ballast = server.spool / "ballast.csv"
    ballast.write_bytes(bytes(4 * len(gated_csv())))
    for _ in range(2):
        assert await status_of_new(session, server) == 507
    for export in exports:
        assert sha256(await export.body()) == gated_sha256()
    ballast.write_bytes(bytes(len(gated_csv())))
    assert await status_of_new(session, server) == 202


async def status_of_new(session: aiohttp.ClientSession, server: Server) -> int:
    async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
        return response.status


async def test_nothing_is_evicted_for_an_export_that_is_refused(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    room = Size(3 * len(gated_csv()))
    server = await serve(
        max_concurrent_exports=1,
        max_queued_exports=1,
        spool_max_bytes=room,
        tuning=replace(TUNING, recount=0.0),
        **gates.settings,
    )
    export = await completed(session, server)
    await gates.shut("gated", 1)
    running = await create(session, server.url, dataset="gated")
    await running.until("processing")
    await create(session, server.url, dataset="gated")
    (server.spool / "ballast.csv").write_bytes(bytes(2 * len(gated_csv())))
    assert await status_of_new(session, server) == 429
    assert sha256(await export.body()) == gated_sha256()
    await gates.open("gated", 1)


async def test_a_live_download_keeps_the_file_of_the_completed_export(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(spool_max_bytes=Size(len(gated_csv())), export_ttl=Duration(3600), **gates.settings)
    await gates.shut("gated", 90_000)
    export = await create(session, server.url, dataset="gated")
    async with reading(export) as body:
        await gates.open("gated", 90_000)
        await export.until("completed")
        await age(gates, export, 2 * HOUR)
        assert await status_of_new(session, server) == 507
        assert server.files() == {export.file_name}
        assert sha256(await body.whole()) == gated_sha256()
    await server.holds()
    await assert_gone(export)


async def test_many_small_exports_are_evicted_in_batches(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table and the folder are read once for a batch, not once for each file."""
    server = await serve(spool_max_bytes=Size(1_000_000), tuning=Tuning(recount=0.0), **gates.settings)
    await gates.connection.execute(
        "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, folder, bytes, finished_at)"
        " SELECT gen_random_uuid(), 'completed', '{}', gen_random_uuid(), now(), $1, 1000,"
        " now() - make_interval(mins => 60 * 24 - n) FROM generate_series(1, 1500) AS n",
        json.loads((server.spool / NAME).read_text())["folder"],
    )
    rows = await gates.connection.fetch("SELECT id FROM streamer.exports ORDER BY finished_at")
    for row in rows:
        (server.spool / f"{row['id']}.csv").write_bytes(bytes(1000))
    scans, statements = Counter[str](), Counter[str]()
    monkeypatch.setattr(os, "scandir", counted(scans, os.scandir))
    monkeypatch.setattr(asyncpg.Connection, "fetch", counted(statements, asyncpg.Connection.fetch))
    assert await status_of_new(session, server) == 202
    assert server.files() >= {f"{row['id']}.csv" for row in rows[501:]}
    assert server.files().isdisjoint(f"{row['id']}.csv" for row in rows[:501])
    assert scans.total() < 30
    assert statements.total() < 60


def counted(counts: Counter[str], method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        counts[method.__name__] += 1
        return method(*arguments, **named)

    return call


async def test_at_most_one_export_is_evicted_while_files_cannot_be_removed(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, immutable: Callable[[Path, bool], None]
) -> None:
    server = await serve(spool_max_bytes=Size(3 * len(gated_csv())), **gates.settings)
    exports = [await completed(session, server) for _ in range(3)]
    immutable(server.spool, True)
    for _ in range(3):
        async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
            await read_problem(response, 507)
    assert [(await export.status())["removedAt"] is None for export in exports] == [False, True, True]
    for export in exports[1:]:
        assert sha256(await export.body()) == gated_sha256()
    immutable(server.spool, False)
    assert await status_of_new(session, server) == 202
    for export in exports[1:]:
        assert sha256(await export.body()) == gated_sha256()


async def test_the_file_of_a_deleted_export_is_removed_as_soon_as_that_is_possible(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, immutable: Callable[[Path, bool], None]
) -> None:
    server = await serve(**gates.settings)
    export = await completed(session, server)
    immutable(server.spool / export.file_name, True)
    assert await export.delete() == 204
    await assert_gone(export)
    assert (await export.status())["links"].keys() == {"self"}
    assert server.files() == {export.file_name}
    immutable(server.spool / export.file_name, False)
    await server.holds()


async def test_an_export_that_grows_makes_room_for_itself(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    tuning = replace(TUNING, write_limits=WriteLimits(write_back=100_000))
    room = Size(2 * len(gated_csv()) - 1_000_000)
    server = await serve(spool_max_bytes=room, tuning=tuning, **gates.settings)
    first = await completed(session, server)
    second = await create(session, server.url, dataset="gated")
    assert sha256(await second.body()) == (await second.until("completed"))["sha256"] == gated_sha256()
    assert server.files() == {second.file_name}
    await assert_gone(first)


async def test_a_sweep_that_is_interrupted_between_the_row_and_the_file_is_finished_by_the_next_start(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configure(export_ttl=Duration(3600), **gates.settings)
    interrupted = asyncio.Event()

    loop, unlink = asyncio.get_running_loop(), os.unlink

    def interrupt(path: Path) -> None:
        if path.name != export.file_name:
            return unlink(path)
        loop.call_soon_threadsafe(interrupted.set)
        raise OSError

    with monkeypatch.context() as patch:
        async with serving(settings, tuning=TUNING) as url:
            export, kept = [await completed(session, Server(url, settings)) for _ in range(2)]
            patch.setattr(os, "unlink", interrupt)
            await age(gates, export, HOUR)
            await asyncio.wait_for(interrupted.wait(), 10)
            await assert_gone(export)
            assert files_in(settings.export_storage_path) == {export.file_name, kept.file_name}
    async with serving(settings, tuning=TUNING) as url:
        assert files_in(settings.export_storage_path) == {kept.file_name}
        await assert_gone(RemoteExport(session, url, export.id))
        assert sha256(await RemoteExport(session, url, kept.id).body()) == gated_sha256()


async def test_a_sweep_goes_on_after_a_database_that_did_not_answer(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(export_ttl=Duration(3600), **gates.settings)
    export = await completed(session, server)
    await gates.connection.execute("ALTER TABLE streamer.exports RENAME TO away")

    async def failed() -> bool:
        return "expired exports could not be removed" in caplog.text

    await until(failed, "a sweep has failed")
    await gates.connection.execute("ALTER TABLE streamer.away RENAME TO exports")
    await age(gates, export, HOUR)
    await server.holds()
    await assert_gone(export)


async def test_files_without_a_use_are_removed_when_a_server_starts(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession
) -> None:
    settings = configure(**gates.settings)
    async with serving(settings, tuning=TUNING) as url:
        server = Server(url, settings)
        deleted, expired, kept = [await completed(session, server) for _ in range(3)]
        assert await deleted.delete() == 204
    await gates.connection.execute("UPDATE streamer.exports SET removed_at = now() WHERE id = $1", UUID(expired.id))
    (settings.export_storage_path / deleted.file_name).write_bytes(gated_csv())
    assert files_and_locks(settings.export_storage_path) == {export.file_name for export in (deleted, expired, kept)}
    async with serving(settings, tuning=TUNING) as url:
        assert files_in(settings.export_storage_path) == {kept.file_name}
        assert sha256(await RemoteExport(session, url, kept.id).body()) == gated_sha256()
    assert files_and_locks(settings.export_storage_path) == {kept.file_name}
