"""The HTTP application and its listener."""

import errno
import logging
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass

from aiohttp import web

from streamer.config import Settings
from streamer.errors import StartError
from streamer.http.api.request_bodies import RequestBodies
from streamer.http.links import Links
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.listener import Listener
from streamer.http.net.readiness import WriteReadiness
from streamer.http.routes import DownloadServices, ExportServices, application
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
def http_application(
    settings: Settings, tuning: Tuning, parts: JobParts, pools: Pools, catalog: Catalog
) -> Iterator[Http]:
    """Builds the application and its threads; at the end the threads are joined."""
    with (
        ThreadPoolExecutor(READ_AHEAD_THREADS, "read ahead") as read_ahead,
        closing(WriteReadiness()) as readiness,
    ):
        exports = ExportServices(
            admission=parts.jobs.admission,
            completed=parts.completed,
            representations=parts.representations,
            catalog=catalog,
            values=ValueCheck(pools.side, settings.dataset_role, timeout=tuning.check_timeout),
            bodies=RequestBodies(tuning.body_timeout),
            ttl=settings.export_ttl,
            abandon_after=settings.abandoned_export_timeout,
        )
        sending = DownloadServices(
            slots=DownloadSlots(settings.max_downloads),
            readiness=readiness,
            read_ahead=read_ahead,
            times=tuning.downloads,
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
            limits=tuning.connections,
            send_timeout=settings.download_stall_timeout,
        )
        with _start_errors(settings.api_port):
            await listener.start()
        yield listener
    finally:
        await runner.cleanup()


async def check_port(settings: Settings) -> None:
    """Raises StartError if the server could not listen; the port is free again at the end."""
    async with listening(web.Application(), settings, Tuning()):
        pass


async def accept(listener: Listener, settings: Settings) -> None:
    """Raises StartError."""
    with _start_errors(settings.api_port):
        await listener.accept()


@contextmanager
def _start_errors(port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(_cannot_listen(error, port)) from error


def _cannot_listen(error: OSError, port: int) -> str:
    """Returns a sentence about an error of the listener, which has the host as its filename."""
    host, number = error.filename, error.errno
    if number == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another with --port or API_PORT"
    if number in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} needs a privilege; choose one above 1023 with --port or API_PORT"
    if number is None or number == errno.EADDRNOTAVAIL:  # asyncio of Python 3.13 gives no number
        return f"{host} is no address of this machine; choose another with --host or API_HOST"
    if isinstance(error.__cause__, socket.gaierror):
        return f"no address is known for the host {host}; choose another with --host or API_HOST"
    return f"cannot listen on {host}:{port}, which --host and --port or API_HOST and API_PORT set: {error.strerror}"


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
