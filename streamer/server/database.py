"""The connection pools, the datasets, and the exports table at this version."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from streamer.config import Settings
from streamer.errors import StartError, Unavailable
from streamer.jobs.store import Store
from streamer.postgres.conninfo import ConnectionParameters
from streamer.postgres.driver import Pool
from streamer.postgres.failures import one_line, with_causes
from streamer.postgres.pool import connect
from streamer.server.export_connections import choose
from streamer.server.tuning import Tuning
from streamer.source.catalog.catalog import Catalog
from streamer.source.session.connections import Connections
from streamer.source.source import Source
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

STORE_CONNECTIONS = 4
SIDE_CONNECTIONS = 2  # to the source: reading the catalog, checking values
OTHER_CONNECTIONS = STORE_CONNECTIONS + SIDE_CONNECTIONS - 2  # which open later; each pool has opened one
CLOSE_TIMEOUT = 0.5  # seconds for the connections of one pool to close


@dataclass(frozen=True, slots=True)
class Pools:
    """`store` for the exports table, `source` for the rows, `side` for other statements on the source."""

    store: Pool
    source: Pool
    side: Pool
    export_connections: int  # of one export


@asynccontextmanager
async def database_pools(settings: Settings) -> AsyncIterator[Pools]:
    """Connects, and closes the connections at the end. Raises StartError."""
    store, source = settings.database(), settings.source_database()
    for database in (store, source) if store != source else (store,):
        for remark in database.remarks:
            log.info("%s: %s", database.setting, remark)
    async with AsyncExitStack() as stack:

        async def pool(database: ConnectionParameters, size: int, **options: Any) -> Pool:
            wait = settings.database_startup_timeout
            connected = await connect(database, name=database.setting, size=size, wait=wait, **options)
            stack.push_async_callback(_close, connected)
            return connected

        for_store = await pool(store, STORE_CONNECTIONS, resets=False)
        side = await pool(source, SIDE_CONNECTIONS, resets=False)
        each = await choose(settings, side, reserved=OTHER_CONNECTIONS)
        exporting = await pool(source, settings.max_concurrent_exports * each, max_row_size=settings.max_row_size)
        yield Pools(for_store, exporting, side, each)


async def claim(directory: SpoolDirectory, store: Store, setting: str) -> None:
    """Migrates the exports table to this version, and assigns the folder to it.

    Raises StartError; `setting` names the database of the table.
    """
    with start_errors(setting):
        try:
            await store.migrate()
        except StartError as error:
            raise StartError(f"{setting}: {error}") from error
        directory.claim(await store.identity())


def export_source(settings: Settings, tuning: Tuning, pools: Pools, catalog: Catalog) -> Source:
    connections = Connections(
        pools.source,
        leaders=settings.max_concurrent_exports,
        workers=pools.export_connections - 1,
        role=settings.dataset_role,
        beside=pools.side,
    )
    return Source(
        connections, catalog, settings.export_method, max_time=settings.export_max_time, reading=tuning.reading
    )


@contextmanager
def start_errors(setting: str) -> Iterator[None]:
    """Turns errors of the folder and of the database, which `setting` names, into StartError."""
    try:
        yield
    except Unavailable as error:
        raise StartError(f"{setting}: {with_causes(error)}") from error
    except OSError as error:
        raise StartError(f"EXPORT_STORAGE_PATH: {one_line(error)}") from error


async def _close(pool: Pool) -> None:
    """Leaves the connections of a database that does not answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await pool.close()
