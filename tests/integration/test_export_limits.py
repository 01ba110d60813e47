"""EXPORT_MAX_TIME and EXPORT_MAX_BYTES: an export beyond a limit fails visibly, releases its snapshot, and is not
run again.

The rows are those of the table `acting`. With every cursor its scan stops at one of them while the test holds a lock.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from streamer.config import Names, Size, Timeout
from streamer.errors import ExportFailure
from streamer.source.catalog.introspection import read_catalog
from streamer.source.source import CursorChoice, Source
from tests.conftest import Serve, Server
from tests.exporting import RemoteExport, create
from tests.integration.sources import (
    ACTING,
    Opened,
    Plain,
    acting,
    entered_as,
    eventually,
    made_role,
    numbers,
    plain_session,
    pooled,
)
from tests.polling import until

ROWS = 1500  # seven a block, some 215 blocks
KEY = 8  # of the lock that the scan waits for
SHORT = Timeout(1.5)  # seconds; long enough to see what goes on before
TOO_LONG = "the rows were read for longer than EXPORT_MAX_TIME allows, 1.5s"
TOO_LARGE = "the file would be larger than EXPORT_MAX_BYTES allows, {:,} bytes"
WORKING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'streamer' AND usename = $1 AND (state <> 'idle' OR xact_start IS NOT NULL)
"""
WAITING = f"(SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {KEY})"
every_cursor = pytest.mark.parametrize("choice", [CursorChoice.BLOCKS, CursorChoice.COPY, CursorChoice.FETCH])


@dataclass(frozen=True)
class Scan:
    """The table, its database, and servers that export it as a role that the policy is for."""

    plain: Plain
    role: str
    url: str
    session: aiohttp.ClientSession
    start: Serve

    async def make(self, *, stops_at: int | None = None) -> None:
        """While the lock is held, which it is from now on, the scan stops at the row."""
        act = f"IF n = {stops_at} THEN PERFORM pg_advisory_lock_shared({KEY}), pg_advisory_unlock_shared({KEY}); END IF"
        await self.plain.execute(acting(act if stops_at else "NULL", rows=ROWS))
        await self.plain.execute(f"SELECT pg_advisory_lock({KEY})")

    async def go_on(self) -> None:
        await self.plain.execute(f"SELECT pg_advisory_unlock({KEY})")

    async def serve(self, choice: CursorChoice = CursorChoice.AUTO, **settings: Any) -> Server:
        source = {"source_database_url": self.url, "datasets": Names(("acting",)), "export_method": choice}
        return await self.start(**source, **settings)

    async def create(self, server: Server, **parameters: str) -> RemoteExport:
        return await create(self.session, server.url, dataset="acting", **{"columns": "n", **parameters})

    async def is_over(self) -> None:
        """No query, no transaction and no snapshot of an export is left."""

        async def idle() -> bool:
            return bool(await self.plain.fetchval(WORKING, self.role) == 0)

        await until(idle, "no session of the export is left in the database", within=5)


@pytest.fixture
async def scan(database: str, serve: Serve, session: aiohttp.ClientSession) -> AsyncIterator[Scan]:
    async with plain_session(database) as plain, made_role(plain) as role:
        yield Scan(plain, role, entered_as(database, role), session, serve)


async def followed(export: RemoteExport) -> bytes:
    """Returns the bytes of a follower whose download breaks, as it must."""
    received = bytearray()

    async def read(response: aiohttp.ClientResponse) -> None:
        async for piece in response.content.iter_any():
            received.extend(piece)

    async with export.session.get(export.download) as response:
        with pytest.raises(aiohttp.ClientError):
            await read(response)
    return bytes(received)


async def failed(export: RemoteExport, sentence: str) -> dict[str, Any]:
    status = await export.until("failed")
    assert (status["error"], status["attempts"]) == (sentence, 1)
    return status


# Time


@every_cursor
async def test_an_export_that_reads_for_too_long_fails_and_releases_its_snapshot(
    scan: Scan, choice: CursorChoice
) -> None:
    await scan.make(stops_at=1400)
    server = await scan.serve(choice, export_max_time=SHORT)
    export = await scan.create(server, columns="n,filling")
    received = await followed(export)
    assert received.startswith(b"n,filling\n1,xxx")
    await failed(export, TOO_LONG)
    await scan.is_over()
    await server.holds()
    async with scan.session.get(export.download) as response:
        assert (response.status, TOO_LONG in await response.text()) == (409, True)


@pytest.mark.parametrize("choice", [CursorChoice.COPY, CursorChoice.FETCH])
async def test_the_time_includes_the_wait_for_the_first_row_of_a_sort(scan: Scan, choice: CursorChoice) -> None:
    await scan.make(stops_at=ROWS)
    server = await scan.serve(choice, export_max_time=SHORT)
    export = await scan.create(server, order_by="-n", n__gt="3")
    assert (await failed(export, TOO_LONG))["progress"]["bytes"] == 0
    await scan.is_over()
    await server.holds()


@every_cursor
async def test_the_time_includes_the_wait_for_the_disk(scan: Scan, choice: CursorChoice) -> None:
    await scan.make()
    async with pooled(scan.url) as pool:
        opened = Opened(pool, await read_catalog(pool, ["acting"]), choice)
        source = Source(opened.connections, opened.catalog, choice, max_time=SHORT)

        async def full(page: bytes | bytearray, rows: int) -> None:
            await asyncio.Event().wait()

        async def export() -> None:
            async with source.open(ACTING) as rows:
                await rows.drain(full)

        with pytest.raises(ExportFailure) as caught:
            await export()
        assert str(caught.value) == TOO_LONG
        await scan.is_over()


async def test_the_wait_for_the_source_and_in_the_queue_does_not_count(scan: Scan) -> None:
    await scan.make()
    server = await scan.serve(max_concurrent_exports=1, export_max_time=Timeout(3))
    transaction = scan.plain.transaction()
    await transaction.start()
    await scan.plain.execute("LOCK TABLE acting IN ACCESS EXCLUSIVE MODE")
    exports = [await scan.create(server) for _ in range(2)]
    await asyncio.sleep(4)
    await transaction.rollback()
    for export in exports:
        await export.until("completed")
        assert await export.body() == numbers(ROWS)


async def test_the_time_ends_with_the_last_row(scan: Scan) -> None:
    """What is done with the rows afterwards needs no snapshot."""
    await scan.make()
    async with pooled(scan.url) as pool:
        opened = Opened(pool, await read_catalog(pool, ["acting"]), CursorChoice.COPY)
        source = Source(opened.connections, opened.catalog, CursorChoice.COPY, max_time=2.0)

        async def take(page: bytes | bytearray, rows: int) -> None:
            pass

        async with source.open(ACTING) as rows:
            assert await rows.drain(take) == ROWS
            await asyncio.sleep(2.5)


async def test_the_next_export_has_the_full_time_after_one_that_took_too_long(scan: Scan) -> None:
    await scan.make(stops_at=1400)
    server = await scan.serve(max_concurrent_exports=1, export_max_time=SHORT)
    first, second = await scan.create(server), await scan.create(server, n__lt="1000")
    await failed(first, TOO_LONG)
    await second.until("completed")
    assert await second.body() == numbers(999)


@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="its processes are not ours to stop")
async def test_an_export_fails_in_time_when_its_database_process_is_stopped(scan: Scan) -> None:
    await scan.make(stops_at=1400)
    server = await scan.serve(CursorChoice.COPY, export_max_time=SHORT)
    export = await scan.create(server)
    await eventually(scan.plain, f"{WAITING} IS NOT NULL")
    process = await scan.plain.fetchval(f"SELECT {WAITING}")
    os.kill(process, signal.SIGSTOP)
    try:
        await failed(export, TOO_LONG)
        await server.holds()
    finally:
        os.kill(process, signal.SIGCONT)
    await scan.is_over()


# Bytes


@every_cursor
@pytest.mark.parametrize("shape", [{}, {"order_by": "-n"}, {"limit": "9"}], ids=["all", "sorted", "cut"])
async def test_a_file_of_the_maximum_size_is_completed_and_a_larger_one_fails(
    scan: Scan, choice: CursorChoice, shape: dict[str, str]
) -> None:
    await scan.make()
    free = await scan.create(await scan.serve(choice), **shape)
    status = await free.until("completed")
    size = status["progress"]["bytes"]
    exact = await scan.create(await scan.serve(choice, export_max_bytes=Size(size)), **shape)
    assert (await exact.until("completed"))["sha256"] == status["sha256"]
    narrow = await scan.serve(choice, export_max_bytes=Size(size - 1))
    await failed(await scan.create(narrow, **shape), TOO_LARGE.format(size - 1))
    await scan.is_over()
    await narrow.holds(free, exact)  # the folder is that of all three servers


@every_cursor
async def test_a_follower_of_an_export_that_becomes_too_large_breaks_below_the_limit(
    scan: Scan, choice: CursorChoice
) -> None:
    most = 1_000_000
    await scan.make(stops_at=300)
    server = await scan.serve(choice, export_max_bytes=Size(most))
    export = await scan.create(server, columns="n,filling")
    follower = asyncio.create_task(followed(export))
    await eventually(scan.plain, f"{WAITING} IS NOT NULL")
    await scan.go_on()
    received = await follower
    assert len(received) <= most
    assert (b"n,filling\n" + b"".join(b"%d,%s\n" % (n, b"x" * 1000) for n in range(1, ROWS + 1))).startswith(received)
    await failed(export, TOO_LARGE.format(most))
    await scan.is_over()
    await server.holds()


async def test_the_header_counts(scan: Scan) -> None:
    await scan.make()
    server = await scan.serve(export_max_bytes=Size(len(b"n\n")))
    await (await scan.create(server, n__lt="0")).until("completed")
    await (await scan.create(server, n__lt="0", bom="true")).until("failed")
