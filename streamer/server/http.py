"""The HTTP application and its listener."""

import logging
import resource
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass

from aiohttp import web

from streamer.config import Settings
from streamer.errors import StartError
from streamer.http.download.compression import GzipStreams
from streamer.http.links import Links
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.listener import Listener
from streamer.http.net.readiness import WriteReadiness
from streamer.http.routes import DownloadServices, ExportServices, application
from streamer.process.cores import cores
from streamer.server.database import Pools
from streamer.server.jobs import JobParts
from streamer.server.tuning import Tuning
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck

log = logging.getLogger(__name__)

READ_AHEAD_THREADS = 4
OTHER_FILES = 256  # that are open beside those of clients
HANDLER_TIMEOUT = 1.0  # seconds for handlers to end after the grace period; aiohttp waits for it twice


@dataclass(frozen=True, slots=True)
class Http:
    app: web.Application
    slots: DownloadSlots


@contextmanager
def http_application(settings: Settings, parts: JobParts, pools: Pools, catalog: Catalog) -> Iterator[Http]:
    """Builds the application and its threads; at the end the threads are joined."""
    with (
        ThreadPoolExecutor(cores(), "gzip") as compressing,
        ThreadPoolExecutor(READ_AHEAD_THREADS, "read ahead") as read_ahead,
        closing(WriteReadiness()) as readiness,
    ):
        exports = ExportServices(
            admission=parts.jobs.admission,
            completed=parts.completed,
            catalog=catalog,
            values=ValueCheck(pools.side, settings.dataset_role),
            ttl=settings.export_ttl,
            abandon_after=settings.abandoned_export_timeout,
        )
        sending = DownloadServices(
            slots=DownloadSlots(settings.max_downloads),
            gzip=GzipStreams(compressing, settings.compressions),
            readiness=readiness,
            read_ahead=read_ahead,
        )
        app = application(exports, sending, Links(settings.public_url))
        # aiohttp calls this when it no longer accepts and has not yet waited for handlers: followers end with exports.
        app.on_shutdown.append(lambda _: parts.jobs.stop())
        yield Http(app, sending.slots)


@asynccontextmanager
async def listening(app: web.Application, settings: Settings, tuning: Tuning) -> AsyncIterator[Listener]:
    """Takes the port; connections wait until `accept`. Raises StartError."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=HANDLER_TIMEOUT)
    await runner.setup()
    try:
        listener = Listener(
            runner,
            settings.api_host,
            settings.api_port,
            limit=_connections(settings.max_downloads + tuning.spare_connections),
            send_timeout=settings.download_stall_timeout,
        )
        with _start_errors(settings):
            await listener.start()
        yield listener
    finally:
        await runner.cleanup()


async def accept(listener: Listener, settings: Settings) -> None:
    """Raises StartError."""
    with _start_errors(settings):
        await listener.accept()


@contextmanager
def _start_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(
            f"API_PORT: cannot listen on {error.filename}:{settings.api_port}: {error.strerror}"
        ) from error


def _connections(wanted: int) -> int:
    """Returns how many connections may be open at once, at most `wanted`: each may have a file open beside its socket.

    Raises the limit on open files for them, as far as that is allowed.
    """
    files, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + OTHER_FILES
    if files < needed:
        files = needed if hard_limit == resource.RLIM_INFINITY else min(needed, hard_limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard_limit))
    possible = max(1, (files - OTHER_FILES) // 2)
    if possible < wanted:
        log.warning("%d open files (ulimit -n) allow %d connections instead of %d", files, possible, wanted)
    return min(wanted, possible)
