"""Scenarios 1, 2 and 5: exports of 10,000,000 rows, alone and three at once, and rows too large for the budget."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.conftest import connected
from tests.exporting import create
from tests.memory.clients import compare, crowd, health_polled, sha256_of
from tests.memory.conftest import USERS, Report, Rig
from tests.memory.crowd import Order

POLL = 0.02  # seconds between two questions to /health
P99, WORST = 0.02, 0.1  # seconds that it may take to answer
LONG = 300.0  # seconds for an export of 10,000,000 rows
FOLLOWERS = 20
CURSORS = ("copy", "blocks", "fetch")
WIDE = 200  # rows of a megabyte
MEGABYTE = 1_000_000
WIDE_TABLES = f"""
    CREATE TABLE wide AS
        SELECT n AS id, repeat(md5(n::text), {MEGABYTE} // 32) AS text FROM generate_series(1, {WIDE}) AS n;
    CREATE TABLE quotes AS SELECT n AS id, repeat('"', {MEGABYTE}) AS text FROM generate_series(1, 50) AS n;
    CREATE TABLE huge AS
        SELECT n AS id, repeat('x', CASE n WHEN 500 THEN 60 * {MEGABYTE} ELSE 10 END) AS text
        FROM generate_series(1, 1000) AS n;
""".replace("//", "/")

pytestmark = [pytest.mark.memory, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("followers", [0, 5])
async def test_ten_million_rows(rig: Rig, used: Report, followers: int) -> None:
    async with rig.start() as server:
        export = await create(rig.session, server.url)
        async with AsyncExitStack() as stack:
            orders = [Order(path=export.path, digest=True, gzip=number == 0) for number in range(followers)]
            running = await stack.enter_async_context(crowd(server, orders)) if followers else None
            status = await export.until("completed", within=LONG)
            found = await running.ended() if running else []
        assert status["progress"]["processedRows"] == USERS
        assert status["sha256"] == sha256_of(rig.spool / export.file_name) == rig.big.digest
        used.add(
            f"1. {USERS:,} rows, {followers} followers",
            server.used(),
            compare(rig.spool / export.file_name, found),
            f"SHA-256 is that of psql \\copy; server: {server.cpu():.1f} s of CPU",
        )


async def test_three_at_once_with_twenty_followers_each(rig: Rig, used: Report) -> None:
    async with rig.start() as server, AsyncExitStack() as stack:
        poll = await stack.enter_async_context(health_polled(server, POLL))
        exports = [await create(rig.session, server.url) for _ in range(3)]
        running = [
            await stack.enter_async_context(
                crowd(server, [Order(path=export.path, digest=number == 0) for number in range(FOLLOWERS)])
            )
            for export in exports
        ]
        for export in exports:
            status = await export.until("completed", within=LONG)
            assert status["sha256"] == rig.big.digest
        found = await asyncio.gather(*(one.ended() for one in running))
        await stack.aclose()
        sentences = [compare(rig.spool / export.file_name, one) for export, one in zip(exports, found, strict=True)]
        used.add(f"2. three at once, {FOLLOWERS} followers each", server.used(), *sentences, poll.latencies.sentence)
    assert poll.latencies.p99 < P99
    assert poll.latencies.worst < WORST


@pytest.mark.parametrize("cursor", CURSORS)
async def test_rows_of_a_megabyte_and_a_value_of_sixty(rig: Rig, used: Report, cursor: str) -> None:
    async with connected(rig.scratch) as connection:
        await connection.execute(WIDE_TABLES)
    async with rig.start(source=rig.scratch, DATASETS="wide,quotes,huge", EXPORT_METHOD=cursor) as server:
        async with health_polled(server, POLL) as poll:
            names = ("wide", "quotes", "huge")
            exports = [await create(rig.session, server.url, dataset=name) for name in names * 3]
            *kept, failed = exports[:2] + exports[3:5] + exports[6:8] + [exports[2]]
            for export in kept:
                status = await export.until("completed", within=LONG)
                assert status["sha256"] == sha256_of(rig.spool / export.file_name)
            reasons = {(await export.until("failed", within=LONG))["error"] for export in exports[2::3]}
        assert all("MAX_ROW_SIZE" in reason for reason in reasons), reasons
        assert not (rig.spool / failed.file_name).exists()
        used.add(
            f"5. rows of 1 MB, a value of 60 MB, {cursor}",
            server.used(),
            f"{len(kept)} exports of rows of 1 MB completed; those with 60 MB failed: {reasons}",
            poll.latencies.sentence,
        )
