"""The real server within 150 MB, in a few seconds: a crowd of followers, some of which read nothing."""

import random
from pathlib import Path

import aiohttp

from tests.conftest import ROWS
from tests.exporting import create
from tests.memory.cgroup import LIMIT
from tests.memory.clients import compare, crowd, sha256_of
from tests.memory.confined import confined
from tests.memory.conftest import Report
from tests.memory.crowd import Order

FOLLOWERS = 50
CHANCE = random.Random(20260207)


async def test_fifty_followers_of_whom_some_stop(
    spool: Path, database: str, source_url: str, session: aiohttp.ClientSession, used: Report
) -> None:
    async with confined(spool, database, source_url) as server:
        export = await create(session, server.url)
        orders = [
            Order(path=export.path, stop=CHANCE.randint(1, 5_000_000), receive_buffer=65536)
            if number % 5 == 0
            else Order(
                path=export.path,
                start=CHANCE.randint(0, 1_000_000) if number % 5 == 1 else None,
                digest=number % 10 == 2,
            )
            for number in range(FOLLOWERS)
        ]
        async with crowd(server, orders) as followers:
            await followers.there()
            status = await export.until("completed")
            found = await followers.stopped()
        file = spool / export.file_name
        assert status["progress"]["processedRows"] == ROWS
        assert sha256_of(file) == status["sha256"]
        used.add(f"{ROWS:,} rows, {FOLLOWERS} followers", server.used(), compare(file, found))
        assert server.used().rss < LIMIT / 2
