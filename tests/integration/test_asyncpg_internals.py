"""What streamer/postgres/driver.py assumes about asyncpg beyond its documentation, one test for each assumption.

A failure here after an upgrade names the assumption that does not hold any more.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator

import asyncpg
import pytest

from streamer.formats.records import count_records
from streamer.model import Dialect
from streamer.postgres.driver import Connection, LimitedConnection, copy_out, is_tls_refusal, row_size_limit
from streamer.postgres.failures import CONNECTION_LOST
from streamer.postgres.pool import connect
from streamer.postgres.row_limit import READ_SIZE
from tests.integration.sources import WAIT, Plain, eventually, pooled
from tests.proxy import proxied

QUOTE = Dialect().quote.encode()
SLEEPING = "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database())"
SLOW = "SELECT repeat('x', 1000) FROM generate_series(1, 20) n WHERE n < 20 OR pg_sleep(600) IS NULL"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    async with pooled(database, size=1) as pool, pool.acquire() as connection:
        yield connection


def test_a_connection_is_made_with_its_protocol_and_its_transport_first() -> None:
    names = list(inspect.signature(asyncpg.Connection.__init__).parameters)
    assert names[:3] == ["self", "protocol", "transport"], (
        f"asyncpg.Connection is called with {names}: LimitedConnection must find the protocol and the transport"
    )


async def test_the_row_limit_is_the_protocol_of_the_transport(connection: Connection) -> None:
    inner = connection._con
    assert type(inner) is LimitedConnection, "asyncpg's pool does not make the connections of its connection_class"
    assert inner._transport.get_protocol() is row_size_limit(connection), (
        "asyncpg sets the protocol of a transport after the connection is made: no row is limited"
    )


async def test_what_the_server_sends_is_counted_before_the_driver_buffers_it(connection: Connection) -> None:
    limit = row_size_limit(connection)
    limit.max_bytes = -READ_SIZE
    limit.active = True
    with pytest.raises(CONNECTION_LOST):
        await connection.fetchval("SELECT 1")
    assert limit.exceeded, "asyncpg receives data that the row limit has not counted"


async def test_a_connection_that_the_pool_has_taken_back_raises_an_interface_error(database: str) -> None:
    async with pooled(database, size=1) as pool:
        connection = await pool.acquire()
        await pool.release(connection)
        with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
            row_size_limit(connection)


@pytest.mark.parametrize("resets", [True, False])
async def test_the_reset_query_of_the_connection_class_decides_what_a_session_keeps(
    database: str, *, resets: bool
) -> None:
    pool = await connect(database, name="SOURCE_DATABASE_URL", size=1, wait=WAIT, resets=resets)
    async with pool:
        async with pool.acquire() as connection:
            await connection.execute("SET application_name = 'kept'")
        async with pool.acquire() as connection:
            kept = await connection.fetchval("SHOW application_name") == "kept"
    assert kept is not resets, "asyncpg's pool does not execute the result of Connection.get_reset_query"


async def test_copy_delivers_whole_records_in_bytearrays_that_it_does_not_use_again(connection: Connection) -> None:
    chunks: list[bytearray] = []
    copies: list[bytes] = []
    told: list[int] = []

    async def keep(chunk: bytearray, rows: int) -> None:
        chunks.append(chunk)
        copies.append(bytes(chunk))
        told.append(rows)

    sql = "SELECT n, repeat(E'\"\\n,', n % 3000) AS words FROM generate_series(1, 6000) n"
    sent = await copy_out(connection, sql, Dialect(), keep)
    assert len(chunks) > 1
    assert all(type(chunk) is bytearray for chunk in chunks), "asyncpg delivers another type than bytearray"
    assert all(chunk.endswith(b"\n") for chunk in chunks), "asyncpg delivers a part of a CopyData message"
    records = [count_records(chunk, QUOTE) for chunk in chunks]
    assert sum(records) == sent == 6000, "a chunk of asyncpg cuts a record"
    assert told == records, "asyncpg delivers other rows than all that have arrived whole"
    assert [bytes(chunk) for chunk in chunks] == copies, "asyncpg uses the buffer of a COPY again"


async def test_a_copy_cancelled_while_it_waits_for_rows_ends_in_the_server(
    connection: Connection, plain: Plain
) -> None:
    async def ignore(chunk: bytearray) -> None:
        pass

    copying = asyncio.create_task(connection.copy_from_query(SLOW, output=ignore, format="csv"))
    await eventually(plain, SLEEPING)
    copying.cancel()
    await asyncio.wait({copying})
    assert copying.cancelled()
    try:
        async with asyncio.timeout(WAIT):
            assert await connection.fetchval("SELECT 1") == 1
    except TimeoutError:
        pytest.fail("asyncpg sends no CancelRequest for a cancelled COPY, or does not wait until it is obeyed")


async def test_copy_out_that_is_cancelled_or_whose_output_fails_leaves_a_usable_connection(
    connection: Connection, plain: Plain
) -> None:
    async def fail(chunk: bytearray, rows: int) -> None:
        await eventually(plain, SLEEPING)
        raise OSError("no space left")

    async def ignore(chunk: bytearray, rows: int) -> None:
        pass

    with pytest.raises(OSError, match="no space left"):
        await copy_out(connection, SLOW, Dialect(), fail)
    assert await asyncio.wait_for(connection.fetchval("SELECT 1"), WAIT) == 1
    copying = asyncio.create_task(copy_out(connection, SLOW, Dialect(), ignore))
    await eventually(plain, SLEEPING)
    copying.cancel()
    await asyncio.wait({copying})
    assert copying.cancelled()
    assert await asyncio.wait_for(connection.fetchval("SELECT 1"), WAIT) == 1


async def test_the_number_of_rows_is_the_last_word_of_the_tag_of_copy(connection: Connection) -> None:
    async def ignore(chunk: bytearray) -> None:
        pass

    tag = await connection.copy_from_query("SELECT generate_series(1, 3)", output=ignore, format="csv")
    assert tag == "COPY 3", "asyncpg returns another tag for COPY"


async def test_a_server_without_tls_is_recognized(database: str) -> None:
    async with proxied(database) as server:  # by TCP: asyncpg never asks for TLS on a Unix socket
        with pytest.raises(ConnectionError) as refused:
            await asyncpg.connect(server.url, ssl="require")
    assert is_tls_refusal(refused.value), f"asyncpg has another error for a server without TLS: {refused.value!r}"
    assert not is_tls_refusal(ConnectionRefusedError(111, "Connect call failed"))
