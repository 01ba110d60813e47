"""The parts that run and remove exports: jobs, cache of completed exports, retention."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial

from streamer.config import Settings
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.jobs import Jobs
from streamer.jobs.queue import Queue
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.representations.making import Representations
from streamer.jobs.retention import Retention
from streamer.jobs.runner import Runner
from streamer.jobs.servers import Servers
from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.postgres.pool import connect_alone
from streamer.process.cores import cores
from streamer.source.source import Source
from streamer.spool.directory import SpoolDirectory


@dataclass(frozen=True, slots=True)
class JobParts:
    jobs: Jobs
    completed: CompletedCache
    retention: Retention
    representations: Representations


@contextmanager
def export_jobs(
    settings: Settings,
    store: Store,
    queue: Queue,
    *,
    compressed: RepresentationStore,
    servers: Servers,
    directory: SpoolDirectory,
    source: Source,
    times: JobTimes,
) -> Iterator[JobParts]:
    """Builds the parts; nothing runs yet. At the end the files of the cache are closed."""
    with (
        ThreadPoolExecutor(min(cores(), settings.compressions), "compress") as compressing,
        closing(CompletedCache(store, compressed, directory, times)) as completed,
    ):
        retention = Retention(
            *(store, compressed, directory, completed),
            ttl=settings.export_ttl,
            history_ttl=settings.history_ttl,
            times=times,
        )
        representations = Representations(
            *(compressed, directory, completed, retention),
            executor=compressing,
            capacity=settings.compressions,
            times=times,
        )
        gate = SourceGate()
        runner = Runner(
            *(store, source, gate), source_wait=settings.source_wait, times=times, max_bytes=settings.export_max_bytes
        )
        jobs = Jobs(
            store,
            queue,
            runner,
            servers=servers,
            connect=partial(connect_alone, settings.database()),
            directory=directory,
            completed=completed,
            retention=retention,
            representations=representations,
            gate=gate,
            concurrency=settings.max_concurrent_exports,
            times=times,
        )
        yield JobParts(jobs, completed, retention, representations)


@asynccontextmanager
async def retaining(retention: Retention) -> AsyncIterator[None]:
    """Removes expired exports while the context is open."""
    task = asyncio.create_task(retention.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
