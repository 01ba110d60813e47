"""EXPORT_CONNECTIONS=auto at the start of a server: what the database allows, and what the log says of the choice."""

import logging
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from streamer.postgres.capacity import free_connections
from tests.conftest import Serve, users_sha256
from tests.exporting import create
from tests.integration.sources import Plain, entered_as, made_role, plain_session, pooled

CHOSEN = re.compile(
    r"EXPORT_CONNECTIONS=auto: at most (\d+) connections per export"
    r" \(cores allow (\d+), memory (\d+), the database allows (\d+)\)"
)
OTHERS = 5  # connections of a server: the one that asks, and four that it opens later


@pytest.fixture(autouse=True)
def logging_choices(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
async def plain(database: str) -> AsyncIterator[Plain]:
    async with plain_session(database) as session:
        yield session


@pytest.fixture
async def role(source_url: str) -> AsyncIterator[str]:
    """A role that may read the users."""
    async with plain_session(source_url) as source, made_role(source) as name:
        await source.execute(f"GRANT SELECT ON users TO {name}")
        yield name


def chosen(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The number, and what cores, memory and the database allow."""
    (found,) = [match for message in caplog.messages if (match := CHOSEN.fullmatch(message))]
    return [int(number) for number in found.groups()]


@pytest.mark.parametrize(("limit", "connections"), [(OTHERS + 5, 1), (OTHERS + 6, 2)])
async def test_a_small_connection_limit_of_the_role_lowers_the_number_and_every_export_completes(
    serve: Serve,
    source_url: str,
    role: str,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    *,
    limit: int,
    connections: int,
) -> None:
    async with plain_session(source_url) as source:
        await source.execute(f"ALTER ROLE {role} CONNECTION LIMIT {limit}")
    server = await serve(source_database_url=entered_as(source_url, role), max_concurrent_exports=3)
    number, _, _, database = chosen(caplog)
    assert (number, database) == (connections, connections)
    exports = [await create(session, server.url, columns="id") for _ in range(3)]
    assert [(await export.until("completed"))["sha256"] for export in exports] == [users_sha256()] * 3
    assert "too many connections" not in caplog.text


async def test_without_a_limit_of_the_database_the_machine_decides(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    await serve(max_concurrent_exports=1)
    number, cores, memory, database = chosen(caplog)
    assert number == min(cores, memory) >= 2
    assert database > 8


async def test_a_number_is_taken_as_it_is(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    await serve(export_connections=4)
    assert "EXPORT_CONNECTIONS" not in caplog.text


async def test_connections_of_the_role_and_of_the_database_count(database: str, plain: Plain) -> None:
    async with made_role(plain) as role, pooled(entered_as(database, role), size=2) as pool:
        unlimited = await free_connections(pool)
        assert unlimited is not None
        assert 0 < unlimited < int(await plain.fetchval("SHOW max_connections"))
        await plain.execute(f'ALTER DATABASE "{urlsplit(database).path[1:]}" CONNECTION LIMIT 12')
        assert await free_connections(pool) == 10  # this session, and that of the pool
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT 7")
        assert await free_connections(pool) == 6
        async with pool.acquire(), pool.acquire() as other:
            assert other is not None
        assert await free_connections(pool) == 5


async def test_limits_do_not_apply_to_a_superuser(database: str, plain: Plain) -> None:
    async with pooled(database, size=1) as pool:
        await plain.execute(f'ALTER DATABASE "{urlsplit(database).path[1:]}" CONNECTION LIMIT 0')
        free = await free_connections(pool)
        assert free is not None
        assert free > 8


async def test_a_database_that_does_not_tell_sets_no_limit(database: str, plain: Plain) -> None:
    async with made_role(plain) as role, pooled(entered_as(database, role), size=1) as pool:
        await plain.execute("REVOKE SELECT ON pg_stat_database FROM PUBLIC")
        assert await free_connections(pool) is None
