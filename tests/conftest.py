"""Real parts for every test: a PostgreSQL, a seeded database, a server with real sockets.

The PostgreSQL is the embedded one, or that of DATABASE_URL, where databases of our own are made and dropped. Rows are
read from one database that is seeded once and never written to again; each server has a store of its own.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aiohttp
import asyncpg
import hypothesis
import pytest

from streamer.config import Duration, Settings
from streamer.embedded import embedded_postgres
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.identity import NAME as IDENTITY
from streamer.spool.servers import PREFIX
from tests import seeds
from tests.exporting import RemoteExport, create, sha256
from tests.gates import GATED_ROWS, Gates
from tests.polling import until

SEEDS = Path(__file__).parent.parent / "seeds"
ROWS = 200_000  # of the seeded users
UTF8 = "ENCODING 'UTF8'"  # of a database
ALONE = ("memory", "sweep", "docker")  # markers

# A machine that stands still for a moment is no fault of an example.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_configure() -> None:
    """Who is started in the background of a script ignores SIGINT, and so does every process it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is measured, and what takes minutes, has the machine to itself: one worker, one after the other."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ALONE):
            item.add_marker(pytest.mark.xdist_group("alone"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on which databases may be made."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with folder_for_postgres() as folder, embedded_postgres(folder / "data") as url:
        stop_syncing(url)
        yield url


@pytest.fixture(scope="session")
def source_url(postgres: str) -> Iterator[str]:
    """A database with the table of the seeds, ROWS rows."""
    with made_database(postgres) as url:
        asyncio.run(_seed(url))
        yield url


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """The URL of an empty database, for one test."""
    async with new_database(postgres) as url:
        yield url


@dataclass(frozen=True)
class Server:
    """A running server and its parts that a test may look at from outside."""

    url: str
    settings: Settings

    @property
    def spool(self) -> Path:
        return self.settings.export_storage_path

    def files(self) -> set[str]:
        return files_in(self.spool)

    async def holds(self, *exports: RemoteExport) -> None:
        """Waits until the spools are those of these exports.

        The file of one that ended early is removed a moment after its row and its followers have been told.
        """
        names = {export.file_name for export in exports}

        async def as_hoped() -> bool:
            return self.files() == names

        await until(as_hoped, f"the spool folder holds {names}")


@cache
def users_sha256() -> str:
    """Of an export of the ids of all seeded users. Computed when it is first needed, and not by every worker."""
    return sha256(seeds.csv_bytes(seeds.rows(ROWS), ["id"]))


Configure = Callable[..., Settings]
Serve = Callable[..., Awaitable[Server]]
Gated = Callable[..., Awaitable[tuple[Server, RemoteExport]]]


@pytest.fixture
def configure(database: str, source_url: str, tmp_path: Path) -> Configure:
    """The settings of a server of this test: `configure(max_concurrent_exports=1)`."""

    def choose(**settings: Any) -> Settings:
        return chosen_settings(database, source_url, tmp_path / "spool", **settings)

    return choose


@pytest.fixture
def tuning() -> Tuning:
    """That of every server which is started without its own. A module or a test may replace it."""
    return Tuning()


@pytest.fixture
async def serve(configure: Configure, tuning: Tuning) -> AsyncIterator[Serve]:
    """Starts servers in this process, on real sockets: `await serve(max_concurrent_exports=1)`."""
    usual = tuning
    async with AsyncExitStack() as stack:

        async def start(*, tuning: Tuning = usual, **settings: Any) -> Server:
            chosen = configure(**settings)
            return Server(await stack.enter_async_context(serving(chosen, tuning=tuning)), chosen)

        yield start


@pytest.fixture
async def server(serve: Serve) -> Server:
    """A server with the default settings."""
    return await serve()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without limits of its own, which asks for no coding unless a test does."""
    async with unlimited_session() as client:
        yield client


@pytest.fixture
async def gates(database: str) -> AsyncIterator[Gates]:
    """Exports that stop where the test says: `await serve(**gates.settings)` once the views are made."""
    async with connected(database) as connection:
        yield Gates(connection, database)


@pytest.fixture
def gated(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> Gated:
    """An export that stops before a row: `server, export = await gated(90_000, max_concurrent_exports=1)`."""

    async def begin(row: int, *, rows: int = GATED_ROWS, **settings: Any) -> tuple[Server, RemoteExport]:
        await gates.view("gated", rows=rows)
        await gates.shut("gated", row)
        server = await serve(**settings, **gates.settings)
        return server, await create(session, server.url, dataset="gated")

    return begin


def chosen_settings(database: str, source_url: str, spool: Path, **settings: Any) -> Settings:
    """The settings of a server that listens on a free port, with those of a test."""
    ours = {
        "database_url": database,
        "source_database_url": source_url,
        "api_port": 0,
        "export_storage_path": spool,
        "shutdown_timeout": Duration(0),
    }
    return Settings(**{**ours, **settings})


def unlimited_session() -> aiohttp.ClientSession:
    """A client without limits of its own, which asks for no coding unless a test does."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=60),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
    )


def files_in(folder: Path) -> set[str]:
    """The names of all that is in a folder of spools, but for its identity and the locks of servers that are alive."""
    return {path.name for path in folder.iterdir() if path.name != IDENTITY and not path.name.startswith(PREFIX)}


def files_and_locks(folder: Path) -> set[str]:
    """The names of all that is in a folder of spools, but for its identity."""
    return {path.name for path in folder.iterdir()} - {IDENTITY}


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A plain connection, for what a test does to the database itself."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def folder_for_postgres() -> Iterator[Path]:
    """A temporary folder outside of pytest's own.

    A PostgreSQL that root starts runs as another user, and every pytest session that starts closes pytest's folder to
    other users: the database would stop.
    """
    with tempfile.TemporaryDirectory(prefix="streamer-postgres-") as name:
        yield Path(name)


def stop_syncing(url: str) -> None:
    """Lets an embedded PostgreSQL leave its files to the page cache: only a crash of the whole machine needs more.

    A test that drops its database would otherwise wait 0.15 s for the disk.
    """

    async def set_up() -> None:
        async with connected(url) as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                await connection.execute(f"ALTER SYSTEM SET {setting} = off")
            await connection.execute("SELECT pg_reload_conf()")

    asyncio.run(set_up())


def at_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@asynccontextmanager
async def new_database(postgres: str, options: str = UTF8) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped with the context."""
    url = await _create(postgres, options)
    try:
        yield url
    finally:
        await _drop(postgres, url)


@contextmanager
def made_database(postgres: str, options: str = UTF8) -> Iterator[str]:
    """As `new_database`, for a fixture that outlives an event loop."""
    url = asyncio.run(_create(postgres, options))
    try:
        yield url
    finally:
        asyncio.run(_drop(postgres, url))


async def _create(postgres: str, options: str) -> str:
    name = f"streamer_test_{uuid4().hex[:8]}"
    async with connected(postgres) as connection:
        # Files are copied in a third of the time that writing the copy to the WAL takes, which is the default.
        strategy = "STRATEGY FILE_COPY" if connection.get_server_version() >= (15, 0) else ""
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options} {strategy}")
    return at_database(postgres, name)


async def _drop(postgres: str, url: str) -> None:
    async with connected(postgres) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")


async def _seed(url: str) -> None:
    async with connected(url) as connection:
        await connection.execute("SELECT set_config('seed.rows', $1, false)", str(ROWS))
        for name in ("01_schema.sql", "02_users.sql", "03_order.sql"):
            await connection.execute((SEEDS / name).read_text(encoding="utf-8"))
