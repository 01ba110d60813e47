"""Rows that do not arrive fail their export: a relay before a real PostgreSQL changes the messages of COPY.

asyncpg drops rows without an error if a message of another type comes between two of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from streamer.errors import ExportFailure
from streamer.source.source import CursorChoice
from tests.integration.sources import Plain, Received, assert_conforms, numbers, opened, spec
from tests.integration.tlsfront import make_certificate, tls_front

ROWS = 40_000
NUMBERS = spec("numbers", ["n"])
MADE_NUMBERS = f"CREATE UNLOGGED TABLE numbers AS SELECT n FROM generate_series(1, {ROWS}) n"
STATUS = b"S\0\0\0\x11TimeZone\0UTC\0"
NOTICE = b"N\0\0\0\x12SINFO\0Mrow 1\0\0"
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)

Tamper = Callable[[bytes], bytes]
"""Takes a message of the server, and returns what the client gets for it."""

by_copy = pytest.mark.parametrize("choice", [CursorChoice.BLOCKS, CursorChoice.COPY])


@asynccontextmanager
async def tampered(url: str, tamper: Tamper) -> AsyncIterator[str]:
    """The URL of the same database through a relay."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first == SSL_REQUEST:
            writer.write(b"N")
            first = b""
        upstream, to_upstream = await open_database(url)
        to_upstream.write(first)
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, to_upstream, lambda data: data))
            group.create_task(pump(upstream, writer, by_message(tamper)))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0] or "postgres"
        yield parts._replace(netloc=f"{user}@127.0.0.1:{port}", query="").geturl()


async def open_database(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if folder := parse_qs(parts.query).get("host"):
        return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{parts.port or 5432}")
    return await asyncio.open_connection(parts.hostname, parts.port or 5432)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Tamper) -> None:
    try:
        while data := await reader.read(1 << 17):
            writer.write(change(data))
            await writer.drain()
    except ConnectionError:
        """The other end has closed the connection."""
    finally:
        writer.close()


def by_message(tamper: Tamper) -> Tamper:
    """Collects whole messages of a stream."""
    rest = b""

    def change(data: bytes) -> bytes:
        nonlocal rest
        rest += data
        changed, at = [], 0
        while at + 5 <= len(rest) and (stop := at + 1 + int.from_bytes(rest[at + 1 : at + 5])) <= len(rest):
            changed.append(tamper(rest[at:stop]))
            at = stop
        rest = rest[at:]
        return b"".join(changed)

    return change


def after_row(act: Tamper, *rows: int) -> Tamper:
    """Acts on the CopyData messages with these numbers."""

    def tamper(message: bytes) -> bytes:
        return act(message) if message[:1] == b"d" and int(message[5:]) in rows else message

    return tamper


async def export(url: str, choice: CursorChoice, tamper: Tamper) -> Received:
    async with tampered(url, tamper) as through, opened(through, choice, "numbers") as source:
        return await source.export(NUMBERS)


@by_copy
async def test_a_relay_that_changes_nothing_loses_no_row(database: str, plain: Plain, choice: CursorChoice) -> None:
    await plain.execute(MADE_NUMBERS)
    assert_conforms(await export(database, choice, lambda message: message), numbers(ROWS))


@by_copy
@pytest.mark.parametrize("row", [1, ROWS // 2, ROWS])
async def test_a_row_that_is_not_sent_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice, row: int
) -> None:
    await plain.execute(MADE_NUMBERS)
    with pytest.raises(ExportFailure, match="did not arrive"):
        await export(database, choice, after_row(lambda message: b"", row))


@by_copy
@pytest.mark.parametrize("between", [STATUS, NOTICE])
async def test_a_message_between_two_rows_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice, between: bytes
) -> None:
    await plain.execute(MADE_NUMBERS)
    places = range(ROWS // 2, ROWS // 2 + 100)  # not all of them are the last of what arrives together
    with pytest.raises(ExportFailure, match="did not arrive"):
        await export(database, choice, after_row(lambda message: message + between, *places))


@by_copy
@pytest.mark.parametrize("between", [STATUS, NOTICE])
async def test_a_message_between_the_first_two_rows_fails_the_export(
    database: str, plain: Plain, choice: CursorChoice, between: bytes
) -> None:
    """The first row comes together with the second."""
    await plain.execute(MADE_NUMBERS)
    with pytest.raises(ExportFailure, match="did not arrive"):
        await export(database, choice, after_row(lambda message: message + between, 1))


@by_copy
@pytest.mark.parametrize("besides", [STATUS, NOTICE])
async def test_a_message_before_or_after_all_rows_loses_none(
    database: str, plain: Plain, choice: CursorChoice, besides: bytes
) -> None:
    """PostgreSQL reports parameters that were changed by a reload, or by the promotion of a standby."""
    await plain.execute(MADE_NUMBERS)

    def tamper(message: bytes) -> bytes:
        return besides + message if message[:1] in b"HcCZ" else message

    assert_conforms(await export(database, choice, tamper), numbers(ROWS))


@by_copy
async def test_rows_that_arrive_by_tls_are_counted(
    database: str, plain: Plain, choice: CursorChoice, tmp_path: Path
) -> None:
    await plain.execute(MADE_NUMBERS)
    parts = urlsplit(database)
    user = parts.netloc.rpartition("@")[0] or "postgres"
    async with tls_front(database, make_certificate(tmp_path, "server")) as port:
        by_tls = parts._replace(netloc=f"{user}@localhost:{port}", query="sslmode=require").geturl()
        async with opened(by_tls, choice, "numbers") as source:
            assert_conforms(await source.export(NUMBERS), numbers(ROWS))
