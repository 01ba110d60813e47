"""Shared by the tests of the source: sinks, COPY as the independent reference, and a parser of records.

Nothing here uses streamer's SQL or CSV: the reference is COPY on a plain connection, identifiers are quoted by the
server, and a chunk is parsed by a pattern of the grammar of one dialect.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from streamer.model import Condition, Dialect, ExportSpec
from streamer.postgres.driver import Pool
from streamer.postgres.pool import connect
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.introspection import read_catalog
from streamer.source.cursors.blocks import BlockReading
from streamer.source.cursors.cursor import Sink
from streamer.source.session.connections import Connections
from streamer.source.session.snapshot import CLEAN_UP_TIMEOUT
from streamer.source.source import CursorChoice, Source
from tests.conftest import connected
from tests.polling import until

CURSORS = (CursorChoice.BLOCKS, CursorChoice.COPY, CursorChoice.FETCH)
POOL_SIZE = 4  # connections; as many as a cursor may want
WORKERS = 2  # connections of the workers of a BlockCursor
WAIT = 20.0  # seconds; the timeout of every wait
PASSWORD = "open, sesame"
PLAIN_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "statement_timeout": "0",
}

every_cursor = pytest.mark.parametrize("choice", CURSORS)
cursors_of_views = pytest.mark.parametrize("choice", [CursorChoice.COPY, CursorChoice.FETCH])


T = TypeVar("T")
Plain: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass
class Received:
    """A sink that keeps every chunk with its number of rows. The first chunk is the header."""

    chunks: list[tuple[bytes, int]] = field(default_factory=list)
    total: int | None = None

    async def take(self, chunk: bytes | bytearray, rows: int) -> None:
        self.chunks.append((bytes(chunk), rows))

    @property
    def body(self) -> bytes:
        return b"".join(chunk for chunk, _ in self.chunks)


class SinkAt:
    """A sink that acts once, on the chunk with that number; 0 is the header."""

    def __init__(self, number: int, act: Callable[[], Awaitable[object]]) -> None:
        self.received = Received()
        self._number = number
        self._act = act

    async def take(self, chunk: bytes | bytearray, rows: int) -> None:
        await self.received.take(chunk, rows)
        if len(self.received.chunks) == self._number + 1:
            await self._act()


@dataclass(frozen=True)
class Opened:
    """A source on a pool of its own, for `leaders` concurrent exports."""

    pool: Pool
    catalog: Catalog
    choice: CursorChoice
    leaders: int = 1
    role: str | None = None
    reading: BlockReading = field(default_factory=BlockReading)
    clean_up_timeout: float = CLEAN_UP_TIMEOUT

    @cached_property
    def connections(self) -> Connections:
        return Connections(
            self.pool,
            leaders=self.leaders,
            workers=WORKERS,
            role=self.role,
            clean_up_timeout=self.clean_up_timeout,
        )

    @property
    def source(self) -> Source:
        return Source(self.connections, self.catalog, self.choice, reading=self.reading)

    async def export(self, spec: ExportSpec) -> Received:
        received = Received()
        received.total = await self.drain(spec, received.take)
        return received

    async def drain(self, spec: ExportSpec, sink: Sink) -> int:
        async with self.source.open(spec) as rows:
            return await rows.drain(sink)


@asynccontextmanager
async def opened(url: str, choice: CursorChoice, *names: str, **fields: Any) -> AsyncIterator[Opened]:
    """Opens a source as the server does: a pool by `connect`, a catalog by `read_catalog`. `fields` are of `Opened`."""
    async with pooled(url) as pool:
        catalog = await read_catalog(pool, names)
        yield Opened(pool, catalog, choice, **fields)


@asynccontextmanager
async def pooled(url: str, size: int = POOL_SIZE) -> AsyncIterator[Pool]:
    pool = await connect(url, name="SOURCE_DATABASE_URL", size=size, wait=WAIT)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(WAIT / 2):
                await pool.close()
        except TimeoutError:
            pool.terminate()
            raise AssertionError("the pool could not be closed: a connection has not come back") from None


def spec(
    dataset: str, columns: Sequence[str], *conditions: Condition, delimiter: str = ",", quote_char: str = '"'
) -> ExportSpec:
    return ExportSpec(
        dataset=dataset,
        columns=tuple(columns),
        conditions=conditions,
        dialect=Dialect(delimiter=delimiter, quote=quote_char),
    )


@asynccontextmanager
async def plain_session(url: str) -> AsyncIterator[Plain]:
    """Opens a plain connection with the settings of an export, in spite of defaults of the database and the role."""
    connection = await asyncpg.connect(url, server_settings=PLAIN_SESSION)
    try:
        yield connection
    finally:
        await connection.close()


async def copied(connection: Plain, sql: str, *, delimiter: str = ",", quote_char: str = '"') -> bytes:
    """Returns the output of COPY for `sql`, with its header."""
    received = bytearray()

    async def keep(piece: bytearray) -> None:
        received.extend(piece)

    await connection.copy_from_query(sql, output=keep, format="csv", header=True, delimiter=delimiter, quote=quote_char)
    return bytes(received)


async def identifiers(connection: Plain, names: Sequence[str]) -> list[str]:
    """Returns the names quoted by the server."""
    statement = (
        "SELECT array_agg(quote_ident(name) ORDER BY place) FROM unnest($1::text[]) WITH ORDINALITY n(name, place)"
    )
    return list(await connection.fetchval(statement, list(names)))


def assert_conforms(exported: Received, expected: bytes, dialect: Dialect | None = None) -> None:
    """Checks that the bytes are those of the reference, and every chunk is whole records, as many as reported."""
    assert_same_bytes(exported.body, expected)
    counted = [count_records(chunk, dialect or Dialect()) for chunk, _ in exported.chunks]
    assert counted[0] == 1, "the first chunk is not the header alone"
    assert exported.chunks[0][1] == 0, "the header was counted as a row"
    assert counted[1:] == [rows for _, rows in exported.chunks[1:]], "a chunk does not hold its number of rows"
    assert exported.total == sum(counted[1:])


def assert_same_bytes(found: bytes, expected: bytes) -> None:
    """Reports the first difference; pytest would need minutes to compare megabytes."""
    if found == expected:
        return
    places = (at for at, (left, right) in enumerate(zip(found, expected, strict=False)) if left != right)
    at = next(places, min(len(found), len(expected)))
    around = slice(max(0, at - 60), at + 60)
    raise AssertionError(
        f"{len(found)} bytes instead of {len(expected)}, the first difference is at byte {at}:\n"
        f"   found {found[around]!r}\nexpected {expected[around]!r}"
    )


def count_records(chunk: bytes, dialect: Dialect) -> int:
    """Returns the number of records in a chunk. Raises AssertionError if it is not whole records of one width."""
    comma, mark = re.escape(dialect.delimiter.encode()), re.escape(dialect.quote.encode())
    quoted = b"%b[^%b]*(?:%b%b[^%b]*)*%b" % ((mark,) * 6)
    matching = re.compile(b"(?:%b|[^%b%b\r\n]*)(%b|\n)" % (quoted, mark, comma, comma))
    widths, width, at = set(), 0, 0
    records = 0
    while at < len(chunk):
        found = matching.match(chunk, at)
        assert found, f"no field at byte {at} of a chunk of {len(chunk)}: {chunk[at : at + 60]!r}"
        at = found.end()
        width += 1
        if found[1] == b"\n":
            widths.add(width)
            width, records = 0, records + 1
    assert not width, f"a chunk ends within a record: {chunk[-60:]!r}"
    assert len(widths) <= 1, f"records of one chunk have different widths: {widths}"
    return records


@asynccontextmanager
async def made_role(plain: Plain) -> AsyncIterator[str]:
    """Creates a role that may only connect to the database, and yields its name."""
    name = f"streamer_role_{uuid4().hex[:8]}"
    await plain.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    try:
        yield name
    finally:
        await plain.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def entered_as(url: str, role: str, password: str = PASSWORD) -> str:
    """The URL of the same database for a role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(role, safe='')}:{quote(password, safe='')}@{host}"))


ACTING = spec("acting", ["n"])


def acting(act: str, *, rows: int = 1500) -> str:
    """Returns SQL for the table `acting`, seven rows a block, that runs `act` when the scan reads the row `n`.

    A row policy does it, with every cursor, for every role except the owner of the table.
    """
    return f"""
        CREATE UNLOGGED TABLE acting AS
            SELECT n, repeat('x', 1000) AS filling FROM generate_series(1, {rows}) n;
        CREATE FUNCTION act(n integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {act}; RETURN true; END $$;
        CREATE POLICY acting_in_the_scan ON acting USING (act(n));
        ALTER TABLE acting ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON acting TO PUBLIC;
    """


def numbers(rows: int) -> bytes:
    """Returns the CSV of the numbers from 1, with the header `n`."""
    return b"n\n" + b"".join(b"%d\n" % n for n in range(1, rows + 1))


async def run_sql(url: str, *statements: str) -> None:
    async with connected(url) as connection:
        for statement in statements:
            await connection.execute(statement)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, T]) -> AsyncIterator["asyncio.Task[T]"]:
    """Runs a task that ends with the context, also if the test fails."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=WAIT)
        if task.done() and not task.cancelled():
            task.exception()  # it has been seen


async def eventually(connection: Plain, condition: str, *arguments: Any) -> None:
    """Waits until the SQL condition holds."""

    async def holds() -> bool:
        return bool(await connection.fetchval(f"SELECT {condition}", *arguments))

    await until(holds, condition, within=WAIT)


OTHERS = """pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""


async def assert_nothing_runs(connection: Plain) -> None:
    """Waits until no other session has a query or a transaction in this database."""
    await eventually(connection, f"NOT EXISTS (SELECT FROM {OTHERS} AND state <> 'idle')")


def assert_all_granted(source: Opened) -> None:
    """Checks that all spare connections can be reserved, and no more."""
    spare = source.pool.get_max_size() - source.leaders
    with ExitStack() as stack:
        granted = [stack.enter_context(source.connections.try_reserve()) for _ in range(spare + 1)]
    assert granted == [True] * spare + [False]


async def assert_all_usable(pool: Pool) -> None:
    """Checks that all connections of the pool at once are outside of a transaction and answer."""
    async with asyncio.timeout(WAIT), AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            connection = await stack.enter_async_context(pool.acquire())
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT 1") == 1
