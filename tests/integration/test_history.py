"""HISTORY_TTL: how long the row of an export outlives its file. No query reads the whole of a large exports table."""

import json
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from streamer.config import Duration, Timeout
from streamer.jobs.retention import BATCH
from streamer.jobs.store import MAX_PAGE_SPECS
from streamer.jobs.table import STATEMENTS
from streamer.jobs.times import JobTimes
from streamer.model import SPEC_VERSION, dataset_in_json
from streamer.server.tuning import Tuning
from streamer.spool.identity import NAME
from tests.conftest import Serve, Server
from tests.exporting import RemoteExport, create, read_problem
from tests.gates import Gates
from tests.polling import until

MONTH = timedelta(days=30)
TUNING = Tuning(jobs=JobTimes(cache_lifetime=0.0, sweep_interval=0.05))
FEW = {"columns": "id", "id__lte": "10"}
MANY = 100_000  # exports
COPIES = """
    INSERT INTO streamer.exports
        (id, state, spec, server_id, lease_until, folder, created_at, finished_at, removed_at, ttl, label, label_folded,
         idempotency_key)
    SELECT gen_random_uuid(), state, '{"dataset":"dataset ' || n % 1000 || '"}', gen_random_uuid(), now(), folder,
        gone_at, gone_at,
        CASE WHEN state = 'completed' AND n % 5 > 0 THEN gone_at END,
        CASE WHEN n % 50 = 0 THEN interval '2 hours' END,
        CASE WHEN n % 10 = 0 THEN 'Label ' || n END, CASE WHEN n % 10 = 0 THEN 'label ' || n END, 'key ' || n
    FROM (
        SELECT n, (ARRAY['completed', 'failed', 'cancelled'])[1 + n % 3] AS state,
            now() - make_interval(mins => n) AS gone_at,
            CASE WHEN n % 4 = 0 THEN NULL WHEN n % 4 = 1 THEN $2::uuid ELSE $1::uuid END AS folder
        FROM generate_series(1, $3) AS n
    ) AS numbers
"""


@pytest.fixture
def tuning() -> Tuning:
    """Rows are not cached, and the sweep runs every 0.05 s."""
    return TUNING


async def age(gates: Gates, *exports: RemoteExport, by: timedelta) -> None:
    """Moves creation, end and removal of the exports into the past."""
    await gates.connection.execute(
        "UPDATE streamer.exports SET created_at = created_at - $2::interval, finished_at = finished_at - $2::interval,"
        " removed_at = removed_at - $2::interval WHERE id = ANY($1::uuid[])",
        [UUID(export.id) for export in exports],
        by,
    )


async def known(gates: Gates) -> set[str]:
    return {str(row["id"]) for row in await gates.connection.fetch("SELECT id FROM streamer.exports")}


async def only(gates: Gates, *exports: RemoteExport) -> None:
    """Waits until the table has exactly these exports."""
    wanted = {export.id for export in exports}

    async def as_hoped() -> bool:
        return await known(gates) == wanted

    await until(as_hoped, f"the table knows {len(wanted)} exports")


async def swept(gates: Gates, server: Server) -> None:
    """Waits until a sweep that began after the call has ended: it deletes a row that is inserted for that."""
    export_id = uuid4()
    await add(gates, server, export_id)

    async def gone() -> bool:
        return str(export_id) not in await known(gates)

    await until(gone, "the sweep has come")


async def add(gates: Gates, server: Server, *export_ids: UUID) -> None:
    """Inserts exports in this server's folder that failed long ago."""
    await gates.connection.execute(
        "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, folder, finished_at)"
        " SELECT id, 'failed', '{}', gen_random_uuid(), now(), $2, now() - interval '10 years'"
        " FROM unnest($1::uuid[]) AS new (id)",
        export_ids,
        folder_of(server),
    )


async def logged(caplog: pytest.LogCaptureFixture, number: int, age: str) -> None:
    """Waits until the log shows this number of deleted rows."""
    said = re.compile(rf"deleted ([0-9]+) rows of exports whose files were removed more than HISTORY_TTL \({age}\) ago")

    async def all_of_them() -> bool:
        return sum(int(found[1]) for line in caplog.messages if (found := said.fullmatch(line))) == number

    await until(all_of_them, f"the log says that {number} rows were deleted")


def folder_of(server: Server) -> UUID:
    return UUID(json.loads((server.spool / NAME).read_text())["folder"])


async def post(session: aiohttp.ClientSession, server: Server, key: str) -> str:
    async with session.post(f"{server.url}/exports/csv", params=FEW, headers={"Idempotency-Key": key}) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["exportId"])


async def test_rows_are_deleted_history_ttl_after_their_files(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamer.jobs.retention")
    await gates.view("gated")
    await gates.dataset("failing", "SELECT 1 / (n - 1) AS quotient FROM generate_series(1, 2) AS n")
    await gates.dataset("short", "SELECT 1 AS id")
    await gates.shut("gated", 1, 10_000)
    server = await serve(
        history_ttl=Timeout(30 * 86_400),
        export_ttl=Duration(100 * 86_400),
        max_concurrent_exports=2,
        **gates.settings,
    )
    running = await create(session, server.url, dataset="gated")
    await gates.reached("gated", 1)
    kept = await create(session, server.url, dataset="short")
    await kept.until("completed")
    removed = await create(session, server.url, dataset="short")
    await removed.until("completed")
    assert await removed.delete() == 204
    failed = await create(session, server.url, dataset="failing")
    await failed.until("failed")
    second = await create(session, server.url, dataset="gated")
    waiting = await create(session, server.url, dataset="gated")
    cancelled = await create(session, server.url, dataset="gated")
    assert await cancelled.delete() == 204
    young = await create(session, server.url, dataset="gated")
    assert await young.delete() == 204
    everything = [running, kept, removed, failed, second, waiting, cancelled, young]
    await age(gates, *everything, by=MONTH - timedelta(minutes=1))
    await swept(gates, server)
    assert await known(gates) == {export.id for export in everything}
    await age(gates, running, kept, removed, failed, second, waiting, cancelled, by=timedelta(minutes=1))
    await only(gates, running, kept, second, waiting, young)
    for export in (removed, failed, cancelled):
        async with session.get(f"{export.resource}/status") as response:
            await read_problem(response, 404)
    await logged(caplog, 3 + 1, "30d")  # one was inserted to detect the sweep
    assert await kept.body() == b"id\n1\n"
    await gates.open("gated", 1, 10_000)
    for export in (running, second, waiting):
        await export.until("completed")


async def test_history_ttl_of_a_completed_export_begins_when_its_file_is_removed(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    """It was completed long before."""
    server = await serve(history_ttl=Timeout(30 * 86_400), export_ttl=Duration(100 * 86_400))
    export = await create(session, server.url, **FEW)
    await export.until("completed")
    await age(gates, export, by=3 * MONTH)
    assert await export.delete() == 204
    await swept(gates, server)
    async with session.get(export.download) as response:
        await read_problem(response, 410)


async def test_an_idempotency_key_is_free_when_its_row_is_deleted(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(history_ttl=Timeout(30 * 86_400))
    export = RemoteExport(session, server.url, await post(session, server, "key"))
    await export.until("completed")
    assert await export.delete() == 204
    assert await post(session, server, "key") == export.id
    await age(gates, export, by=MONTH)
    await only(gates)
    other = RemoteExport(session, server.url, await post(session, server, "key"))
    assert other.id != export.id
    await other.until("completed")


async def test_a_row_stays_while_its_file_cannot_be_removed(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, immutable: Callable[[Path, bool], None]
) -> None:
    server = await serve(history_ttl=Timeout(30 * 86_400))
    export = await create(session, server.url, **FEW)
    await export.until("completed")
    file = server.spool / export.file_name
    immutable(file, True)
    assert await export.delete() == 204
    await age(gates, export, by=MONTH)
    await swept(gates, server)
    assert await known(gates) == {export.id}
    assert file.exists()
    immutable(file, False)
    await server.holds()
    await only(gates)


async def test_rows_behind_a_batch_of_files_that_stay_are_deleted(
    serve: Serve, gates: Gates, immutable: Callable[[Path, bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Files that stay are the oldest ones here, and more than a batch."""
    caplog.set_level(logging.INFO, "streamer.jobs.retention")
    server = await serve()
    stay = [uuid4() for _ in range(BATCH + 25)]
    for export_id in stay:
        (server.spool / f"{export_id}.csv").write_bytes(b"")
    immutable(server.spool, True)
    async with gates.connection.transaction():
        await add(gates, server, *stay)
        await gates.connection.execute("UPDATE streamer.exports SET finished_at = finished_at - interval '1 day'")
        await add(gates, server, *(uuid4() for _ in range(95)))

    async def gone() -> bool:
        return await known(gates) == {str(export_id) for export_id in stay}

    await until(gone, "only the exports whose files stay are known")
    await logged(caplog, 95, "90d")
    assert len([line for line in caplog.messages if "HISTORY_TTL" in line]) == 1


async def test_rows_of_no_folder_are_deleted_and_rows_of_other_folders_stay(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = await serve(history_ttl=Timeout(30 * 86_400))
    export, of_none = [await create(session, server.url, **FEW) for _ in range(2)]
    for each in (export, of_none):
        await each.until("completed")
        assert await each.delete() == 204
    await gates.connection.execute(
        "UPDATE streamer.exports SET folder = CASE id WHEN $1 THEN $2::uuid END", UUID(export.id), uuid4()
    )
    await age(gates, export, of_none, by=3 * MONTH)
    await only(gates, export)
    other = await serve(export_storage_path=tmp_path / "other", history_ttl=Timeout(30 * 86_400))
    await swept(gates, server)
    await swept(gates, other)
    assert await known(gates) == {export.id}
    await gates.connection.execute("UPDATE streamer.exports SET folder = $1", folder_of(other))
    await only(gates)


async def test_rows_in_a_state_of_a_newer_version_stay(serve: Serve, gates: Gates) -> None:
    server = await serve(history_ttl=Timeout(30 * 86_400))
    await gates.connection.execute("ALTER TABLE streamer.exports DROP CONSTRAINT exports_state_check")
    theirs = uuid4()
    await add(gates, server, theirs)
    await gates.connection.execute("UPDATE streamer.exports SET state = 'archived' WHERE id = $1", theirs)
    await swept(gates, server)
    assert await known(gates) == {str(theirs)}


# Plans


async def plans(gates: Gates, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    """Returns the scans of the exports table in a statement, with the rows they have read."""
    (row,) = await gates.connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {STATEMENTS[statement]}", *arguments)
    found: list[dict[str, Any]] = []

    def collect(node: dict[str, Any]) -> None:
        if "Scan" in node["Node Type"] and node.get("Relation Name") == "exports":
            found.append(node)
        for inner in node.get("Plans", []):
            collect(inner)

    collect(json.loads(row[0])[0]["Plan"])
    return found


def read_by(scan: dict[str, Any]) -> int:
    """Returns the number of rows that a scan has read."""
    removed = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return int((scan["Actual Rows"] + removed) * scan["Actual Loops"])


async def test_no_query_of_a_large_table_reads_more_than_it_needs(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(tuning=Tuning())
    export = await create(session, server.url, **FEW)
    await export.until("completed")
    folder, nobody = folder_of(server), UUID(int=0)
    await gates.connection.execute(COPIES, folder, uuid4(), MANY)
    # Statistics of every row: a sample differs from run to run, and with it the plan.
    await gates.connection.execute("SET default_statistics_target = 1000; ANALYZE streamer.exports")
    day, batch = timedelta(days=1), 200
    statements: dict[str, tuple[int, tuple[Any, ...]]] = {  # the rows that it may read, and its arguments
        "expired": (batch + MANY // 50, (folder, 30 * day, [], batch)),
        "expired, only by their own time": (MANY // 50, (folder, 1000 * day, [], batch)),
        "without_file": (2 * batch, (folder, 30 * day, None, nobody, batch)),
        "without_file, nothing": (0, (folder, 1000 * day, None, nobody, batch)),
        "delete_rows": (1, ([UUID(export.id)],)),
        "least_used": (batch, (folder, None, nobody, [], batch)),
        "page": (21, ([], None, nobody, 20, MAX_PAGE_SPECS, None, None, None)),
        "page, of a principal": (21, ([], None, nobody, 20, MAX_PAGE_SPECS, None, None, "open")),
        "page, of another": (0, ([], None, nobody, 20, MAX_PAGE_SPECS, None, None, "key:other")),
        "page, by state": (100, (["failed"], None, nobody, 20, MAX_PAGE_SPECS, None, None, None)),
        "page, by label": (21, ([], None, nobody, 20, MAX_PAGE_SPECS, "label", None, None)),
        "page, by a rare label": (MANY // 10, ([], None, nobody, 20, MAX_PAGE_SPECS, "label 77770", None, None)),
        "page, by dataset": (21, ([], None, nobody, 20, MAX_PAGE_SPECS, None, dataset_in_json("dataset 7"), None)),
        "by_key": (1, ("open", "key 5")),
        "get": (1, (UUID(export.id), None)),
        "orphans": (10, ([uuid4()], 3, [], 1)),
        "fail_orphans": (10, ("served", "exhausted", [uuid4()], 3, [])),
        "claim": (1, (UUID(export.id), uuid4(), JobTimes().lease, folder)),
        "next": (20, (folder, SPEC_VERSION, [], 7)),
        "claimable": (20, (folder, SPEC_VERSION, 7)),
        "begin": (20, (uuid4(), "{}", 1, "open", None, None, None, None, folder, uuid4(), JobTimes().lease, 7)),
        "insert": (10, (uuid4(), "{}", 1, "open", None, None, None, None, folder, 7)),
        "full": (10, (7,)),
        "adopt": (10, (uuid4(), JobTimes().lease, SPEC_VERSION)),
        "lost": (1, (uuid4(), [UUID(export.id)])),
    }
    for name, (most, arguments) in statements.items():
        transaction = gates.connection.transaction()
        await transaction.start()
        scans = await plans(gates, name.partition(",")[0], *arguments)
        await transaction.rollback()
        assert scans, name
        assert all("Index" in scan["Node Type"] or "Bitmap" in scan["Node Type"] for scan in scans), (name, scans)
        assert sum(map(read_by, scans)) <= most, (name, scans)
