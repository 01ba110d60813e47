"""A hot standby as the source: what it has replayed, over several connections, byte by byte as COPY on the primary.

The primary and its standby are two embedded servers. The process is the real one, with the primary as DATABASE_URL and
the standby as SOURCE_DATABASE_URL. A standby may end a query to go on with its recovery: that ends the export, visibly.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.acceptance.process import streamer
from tests.conftest import connected
from tests.exporting import create, sha256
from tests.integration.sources import copied, plain_session
from tests.polling import until
from tests.restarting import BASEBACKUP
from tests.standby import Pair, paired

ROWS = 40_000  # of 650 bytes, in 3,300 blocks or so
FEW_BLOCKS = 256  # a smaller table is read on one connection
GATE = 1  # the advisory lock that holds an export of the view `gated`
GATED_ROW = 100_000  # the rows before it are more than the buffers on the way can hold
MADE = f"""
    CREATE TABLE wide WITH (autovacuum_enabled = off) AS
    SELECT n, repeat(md5(n::text), 20) AS words FROM generate_series(1, {ROWS}) AS n;
    ANALYZE wide;
    CREATE TABLE scrap WITH (autovacuum_enabled = off) AS SELECT n FROM generate_series(1, 1000) AS n;
    CREATE FUNCTION gate(n integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({GATE});
        RETURN n;
    END $$;
    CREATE VIEW gated AS
    SELECT CASE n WHEN {GATED_ROW} THEN gate(n) ELSE n END AS n, repeat('.', 90) AS words
    FROM generate_series(1, {GATED_ROW}) AS n;
"""
COPYING = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY (SELECT%'"
AT_THE_GATE = f"SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted)"

pytestmark = pytest.mark.skipif(not BASEBACKUP.exists(), reason="the embedded PostgreSQL comes without pg_basebackup")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with paired(MADE) as found:
        yield found


@asynccontextmanager
async def serving_from(pair: Pair, folder: Path, dataset: str) -> AsyncIterator[str]:
    """The URL of `streamer serve` with the cursor that is the default, and three connections for an export."""
    settings = {
        "DATABASE_URL": pair.primary,
        "SOURCE_DATABASE_URL": pair.standby,
        "DATASETS": dataset,
        "EXPORT_CONNECTIONS": "3",
        "API_PORT": "0",
    }
    async with streamer("serve", folder=folder, environment=settings) as process:
        yield await process.url()


async def copy_of_wide(url: str) -> str:
    """The SHA-256 of what COPY says on a plain connection."""
    async with plain_session(url) as plain:
        assert await plain.fetchval("SELECT pg_relation_size('wide') / 8192") > FEW_BLOCKS
        return sha256(await copied(plain, "SELECT * FROM wide"))


async def test_a_standby_gives_the_bytes_of_copy_on_the_primary_over_several_connections(
    pair: Pair, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    await pair.caught_up()
    expected = await copy_of_wide(pair.primary)
    async with connected(pair.standby) as watch, serving_from(pair, tmp_path, "wide") as url:
        assert await watch.fetchval("SELECT pg_is_in_recovery()")
        at_once = 0

        async def several() -> bool:
            """One export, its bytes as they must be, and whether more than one session was seen copying."""
            nonlocal at_once
            export = await create(session, url, dataset="wide")
            while (await export.status())["status"] in {"pending", "processing"}:
                at_once = max(at_once, len(await watch.fetch(COPYING)))
            assert (await export.until("completed"))["sha256"] == sha256(await export.body()) == expected
            return at_once > 1

        await until(several, "two sessions copy at the same time")


async def test_a_standby_gives_what_it_has_replayed(pair: Pair, tmp_path: Path, session: aiohttp.ClientSession) -> None:
    await pair.caught_up()
    before = await copy_of_wide(pair.primary)
    async with (
        connected(pair.primary) as primary,
        connected(pair.standby) as standby,
        serving_from(pair, tmp_path, "wide") as url,
    ):
        async with replay_paused(standby):
            await primary.execute("UPDATE wide SET words = 'new' WHERE n % 3 = 0")
            after = await copy_of_wide(pair.primary)
            assert sha256(await (await create(session, url, dataset="wide")).body()) == before != after
        await pair.caught_up()
        assert sha256(await (await create(session, url, dataset="wide")).body()) == after


async def test_a_conflict_with_recovery_breaks_the_download_and_is_the_reason_in_the_status(
    pair: Pair, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    await pair.caught_up()
    async with (
        connected(pair.primary) as primary,
        connected(pair.standby) as hand,
        serving_from(pair, tmp_path, "gated") as url,
    ):
        await hand.execute("SELECT pg_advisory_lock($1)", GATE)
        export = await create(session, url, dataset="gated")
        async with session.get(export.download) as follower:
            assert follower.status == 200
            await until(lambda: stands_at_the_gate(hand), "the export stands at the gate")
            async with recovery_first(hand):
                await primary.execute("DELETE FROM scrap")
                await primary.execute("VACUUM scrap")  # takes rows away that the export may want to see
                with pytest.raises(aiohttp.ClientPayloadError):
                    await follower.read()
        status = await export.status()
    assert status["status"] == "failed"
    assert "conflict with recovery" in status["error"]


@asynccontextmanager
async def replay_paused(standby: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    async def paused() -> bool:
        return bool(await standby.fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"))

    await standby.execute("SELECT pg_wal_replay_pause()")
    try:
        await until(paused, "the replay is paused")
        yield
    finally:
        await standby.execute("SELECT pg_wal_replay_resume()")


@asynccontextmanager
async def recovery_first(standby: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    """The standby waits for no query that is in the way of its recovery."""

    async def known() -> bool:
        return bool(await standby.fetchval("SHOW max_standby_streaming_delay") == "0")

    await standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await standby.execute("SELECT pg_reload_conf()")
    try:
        await until(known, "the standby knows its new setting")
        yield
    finally:
        await standby.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
        await standby.execute("SELECT pg_reload_conf()")


async def stands_at_the_gate(hand: "asyncpg.Connection[asyncpg.Record]") -> bool:
    return bool(await hand.fetchval(AT_THE_GATE))
