"""Starts the parts of the server in order, and stops them in the reverse."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from uuid import uuid4

from streamer.config import Settings
from streamer.jobs.jobs import Jobs
from streamer.jobs.queue import Queue
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.servers import Servers
from streamer.jobs.store import Store
from streamer.server.database import claim, database_pools, export_source, start_errors
from streamer.server.http import Http, accept, http_application, listening
from streamer.server.jobs import export_jobs, retaining
from streamer.server.signals import cancel_on_signal, reread_on_hangup
from streamer.server.storage import spool_directory
from streamer.server.tuning import Tuning
from streamer.source.catalog.introspection import read_catalog

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    settings: Settings, *, hangup_rereads: bool = False, tuning: Tuning | None = None
) -> AsyncIterator[str]:
    """Serves while the context is open, and yields the URL. Raises StartError.

    With `hangup_rereads` SIGHUP reads the datasets again.
    """
    tuning = tuning or Tuning()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(spool_directory(settings, tuning))
        pools = await stack.enter_async_context(database_pools(settings))
        catalog = await read_catalog(
            pools.side, settings.datasets, file=settings.datasets_file, role=settings.dataset_role
        )
        if hangup_rereads:
            stack.enter_context(reread_on_hangup(catalog))
        server_id = uuid4()
        store = Store(pools.store, server_id, tuning.jobs)
        compressed = RepresentationStore(pools.store, server_id, tuning.jobs)
        setting = settings.database().setting
        await claim(directory, store, setting)
        source = export_source(settings, tuning, pools, catalog)
        queue = Queue(
            *(pools.store, server_id, tuning.jobs),
            folder=directory.id,
            capacity=settings.max_queued_exports,
            source_exports=settings.source_exports,
        )
        servers = Servers(pools.store, server_id, tuning.jobs, folder=directory.id)
        parts = stack.enter_context(
            export_jobs(
                *(settings, store, queue),
                servers=servers,
                compressed=compressed,
                directory=directory,
                source=source,
                times=tuning.jobs,
            )
        )
        http = stack.enter_context(http_application(settings, tuning, parts, pools, catalog))
        stack.enter_context(directory.alive(server_id))
        stack.push_async_callback(parts.jobs.stop)
        # The port comes first: a server that cannot listen must neither remove exports nor take over those of others.
        listener = await stack.enter_async_context(listening(http.app, settings, tuning))
        with start_errors(setting):
            await parts.jobs.start()
        await stack.enter_async_context(retaining(parts.retention))
        await accept(listener, settings)
        yield listener.name
        await _drain(parts.jobs, http, settings.shutdown_timeout)


async def _drain(jobs: Jobs, http: Http, grace: float) -> None:
    """Returns when no export runs and no download is open, or after `grace` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await jobs.drain()
            await http.slots.wait_empty()


async def serve(settings: Settings, announce: Callable[[str], None], *, hangup_rereads: bool) -> None:
    """Serves until SIGINT or SIGTERM, which also end the start; a second signal ends the process at once.

    `announce` is called with the URL once the server accepts connections. With `hangup_rereads` SIGHUP reads the
    datasets again instead of ending the process. Raises StartError.
    """
    task = asyncio.current_task()
    assert task is not None
    stopped = cancel_on_signal(task)
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
