"""The composition root: what is started in which order, and stopped in the reverse."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aiohttp import web

from streamer.config import Settings
from streamer.errors import StartError, Unavailable
from streamer.http.download.compression import GzipStreams
from streamer.http.links import Links
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.listener import Listener
from streamer.http.net.readiness import WriteReadiness
from streamer.http.routes import application
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.queue import ExportQueue
from streamer.jobs.retention import Retention
from streamer.jobs.runner import Runner
from streamer.jobs.store import Store
from streamer.postgres.conninfo import ConnectionParameters
from streamer.postgres.driver import Pool
from streamer.postgres.failures import one_line, with_causes
from streamer.postgres.pool import connect
from streamer.process.cores import cores
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck
from streamer.source.catalog.introspection import read_catalog
from streamer.source.session.connections import Connections
from streamer.source.source import Source
from streamer.spool.directory import SpoolDirectory
from streamer.spool.spool import THREADS as SPOOL_THREADS

log = logging.getLogger(__name__)

STORE_CONNECTIONS = 4
SIDE_CONNECTIONS = 2  # to the source, for what is asked of it beside the exports
READ_AHEAD_THREADS = 4
OTHER_FILES = 256  # that are open beside those of clients
SPARE_CONNECTIONS = 250  # of clients that do not download, beside MAX_FOLLOWERS
BREAK_OFF = 1.0  # seconds for connections to break when the grace is over; aiohttp waits for it twice


@asynccontextmanager
async def serving(settings: Settings, *, hangup_rereads: bool = False) -> AsyncIterator[str]:
    """Serves while the context is open; gives the URL. Raises StartError.

    With `hangup_rereads` SIGHUP reads the datasets again.
    """
    async with AsyncExitStack() as stack:
        directory = _directory(settings, stack)
        pools = await _pools(settings, stack)
        catalog = await read_catalog(
            pools.side, settings.datasets, file=settings.datasets_file, role=settings.dataset_role
        )
        if hangup_rereads:
            stack.enter_context(_rereading_at_hangup(catalog))
        owner = uuid4()
        store = Store(pools.store, owner)
        await _claim(directory, store)
        sealed = CompletedCache(store, directory)
        stack.callback(sealed.close)
        retention = Retention(store, directory, sealed, ttl=settings.export_ttl, history_ttl=settings.history_ttl)
        gate = SourceGate()
        runner = Runner(
            store,
            _source(settings, pools, catalog),
            gate,
            source_wait=settings.source_wait,
            max_bytes=settings.export_max_bytes,
        )
        queue = ExportQueue(
            store,
            runner,
            directory,
            sealed,
            retention,
            gate=gate,
            concurrency=settings.max_concurrent_exports,
            capacity=settings.max_queued_exports,
        )
        places = DownloadSlots(settings.max_followers)
        app = application(
            queue,
            catalog,
            ValueCheck(pools.side, settings.dataset_role),
            sealed=sealed,
            gzip=GzipStreams(_threads(stack, cores(), "gzip"), settings.gzip_streams),
            read_ahead=_threads(stack, READ_AHEAD_THREADS, "read ahead"),
            places=places,
            room=stack.enter_context(closing(WriteReadiness())),
            links=Links(settings.public_url),
            abandon_after=settings.abandon_after,
            ttl=settings.export_ttl,
        )
        # aiohttp calls this when it no longer accepts and has not yet waited for handlers: followers end with exports.
        app.on_shutdown.append(lambda _: queue.stop())
        stack.enter_context(directory.alive(owner))
        stack.push_async_callback(queue.stop)
        listener, url = await _listen(app, settings, stack)  # a server without a port removes and takes over nothing
        await _start(queue)
        await stack.enter_async_context(_in_background(retention.run()))
        await _accept(listener, settings)
        yield url
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.shutdown_grace):
                await queue.drain()
                await places.wait_empty()


async def _claim(directory: SpoolDirectory, store: Store) -> None:
    """Brings the exports table to this version, and makes the folder its own. Raises StartError."""
    with _unavailable_ends_the_start():
        await store.migrate()
        directory.claim(await store.identity())


async def _start(queue: ExportQueue) -> None:
    """Raises StartError."""
    with _unavailable_ends_the_start():
        await queue.start()


@contextmanager
def _unavailable_ends_the_start() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        raise StartError(f"DATABASE_URL: {with_causes(error)}") from error
    except OSError as error:
        raise StartError(f"EXPORT_STORAGE_PATH: {one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class _Pools:
    """`store` for the exports table, `source` for the rows, `side` for what is asked of the source beside exports."""

    store: Pool
    source: Pool
    side: Pool


async def _pools(settings: Settings, stack: AsyncExitStack) -> _Pools:
    """Raises StartError."""

    async def pool(database: ConnectionParameters, size: int, **options: Any) -> Pool:
        connected = await connect(database, name=database.setting, size=size, wait=settings.database_wait, **options)
        stack.push_async_callback(_close, connected)
        return connected

    store, source = settings.database(), settings.source_database()
    for database in (store, source) if store != source else (store,):
        for remark in database.remarks:
            log.info("%s: %s", database.setting, remark)
    exporting = settings.max_concurrent_exports * settings.export_connections
    return _Pools(
        store=await pool(store, STORE_CONNECTIONS, resets=False),
        source=await pool(source, exporting, max_row_size=settings.max_row_size),
        side=await pool(source, SIDE_CONNECTIONS, resets=False),
    )


def _directory(settings: Settings, stack: AsyncExitStack) -> SpoolDirectory:
    """Raises StartError."""
    directory = SpoolDirectory(
        settings.export_storage_path,
        _threads(stack, SPOOL_THREADS * settings.max_concurrent_exports, "spool"),
        most=settings.spool_max_bytes,
        reserve=settings.spool_disk_reserve,
    )
    stack.callback(directory.close)
    directory.prepare()
    return directory


def _source(settings: Settings, pools: _Pools, catalog: Catalog) -> Source:
    connections = Connections(
        pools.source,
        leaders=settings.max_concurrent_exports,
        workers=settings.export_connections - 1,
        role=settings.dataset_role,
        beside=pools.side,
    )
    return Source(connections, catalog, settings.export_cursor, max_time=settings.export_max_time)


def _threads(stack: AsyncExitStack, number: int, name: str) -> ThreadPoolExecutor:
    return stack.enter_context(ThreadPoolExecutor(number, thread_name_prefix=name))


async def _close(pool: Pool) -> None:
    """A database that does not answer is left without a word."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BREAK_OFF / 2):
            await pool.close()


@contextmanager
def _rereading_at_hangup(catalog: Catalog) -> Iterator[None]:
    """While the context is open, SIGHUP has the datasets read again. What is wrong is told, and changes nothing."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def reread() -> None:
        try:
            await catalog.reread()
            log.info("the datasets were read again: %d", len(catalog))
        except StartError as error:
            log.error("the datasets stay as they were: %s", error)  # noqa: TRY400 - it is one line, as at the start
        except Exception:
            log.exception("the datasets stay as they were")

    def begin() -> None:
        task = asyncio.create_task(reread(), name="datasets")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _listen(app: web.Application, settings: Settings, stack: AsyncExitStack) -> tuple[Listener, str]:
    """Takes the port; connections wait until the listener accepts. Raises StartError."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=BREAK_OFF)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = Listener(
        runner,
        settings.api_host,
        settings.api_port,
        limit=_connections(settings.max_followers + SPARE_CONNECTIONS),
        stall_timeout=settings.follower_stall_timeout,
    )
    with _cannot_listen(settings):
        await listener.start()
    return listener, listener.name


async def _accept(listener: Listener, settings: Settings) -> None:
    """Raises StartError."""
    with _cannot_listen(settings):
        await listener.accept()


@contextmanager
def _cannot_listen(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(
            f"API_PORT: cannot listen on {error.filename}:{settings.api_port}: {error.strerror}"
        ) from error


def _connections(wanted: int) -> int:
    """How many connections may be open at once: beside each socket there may be a file.

    The limit on open files is raised for them, as far as that is allowed.
    """
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + OTHER_FILES
    if files < needed:
        files = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    possible = max(1, (files - OTHER_FILES) // 2)
    if possible < wanted:
        log.warning("%d open files (ulimit -n) allow %d connections instead of %d", files, possible, wanted)
    return min(wanted, possible)


async def serve(settings: Settings, announce: Callable[[str], None], *, hangup_rereads: bool) -> None:
    """Serves until SIGINT or SIGTERM, also while it is still starting; a second signal leaves at once.

    `announce` is told the URL once it answers. With `hangup_rereads` SIGHUP reads the datasets again instead of ending
    the process. Raises StartError.
    """
    task = asyncio.current_task()
    assert task is not None
    stopped = _cancel_on_signal(task)
    try:
        async with serving(settings, hangup_rereads=hangup_rereads) as url:
            log.info("serving on %s", url)
            announce(url)
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            task.uncancel()
            log.info("stopping")
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise


def _cancel_on_signal(task: "asyncio.Task[None]") -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # the next one has its usual, immediate effect
        if os.getpid() == 1:  # of a container: the kernel keeps from it what it has no handler for
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
        stopped.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return stopped
