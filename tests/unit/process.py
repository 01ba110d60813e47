"""The parts of one server process below HTTP, with a real table and a real folder. Its rows are those of the test."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import Admission
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.idle_workers import IdleWorkers
from streamer.jobs.queue import Queue
from streamer.jobs.recovery import Recovery
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.representations.making import Representations
from streamer.jobs.retention import Retention
from streamer.jobs.runner import Runner
from streamer.jobs.servers import Servers
from streamer.jobs.store import Store
from streamer.jobs.tasks import Tasks
from streamer.jobs.times import JobTimes
from streamer.jobs.watch import Watch
from streamer.jobs.workers import Workers
from streamer.model import OPEN, ExportRequest, ExportSpec, Principal
from streamer.postgres.driver import Pool
from streamer.protocol.disposition import ContentDescription
from streamer.source.cursors.cursor import Sink
from streamer.source.rows import Rows
from streamer.source.session.time_limit import TimeLimit
from streamer.source.source import Source
from streamer.spool.directory import SpoolDirectory
from tests.polling import until

SPEC = ExportSpec(dataset="users", columns=("id",))
HEADER = b"id\n"
TIMES = JobTimes(retry_delay=timedelta(0), report_interval=0.01, cache_lifetime=0.0)
COMPRESSIONS = 2  # at once
CAPACITY = 2  # exports that may wait
HOUR = timedelta(hours=1)


class Script:
    """A source whose runs do what the test says, and their cursor, which passes one row on."""

    def __init__(self) -> None:
        self.before: list[Exception] = []  # each ends one run before there is a snapshot
        self.after: list[Exception] = []  # each ends one run after the row
        self.row = b"1\n"
        self.claimed = 1  # rows that the cursor says it has passed on
        self.opened = 0  # runs
        self.go_on = asyncio.Event()  # the row is followed by the end
        self.go_on.set()
        self.reading = asyncio.Event()  # the row has been passed on

    @asynccontextmanager
    async def open(self, _: ExportSpec) -> AsyncIterator[Rows]:
        self.opened += 1
        if self.before:
            raise self.before.pop(0)
        yield Rows(
            snapshot_at=datetime.now(UTC),
            prologue=HEADER,
            cursor=self,
            quote='"',
            limit=None,
            time_limit=TimeLimit(),
        )

    @property
    def expected(self) -> int:
        return 4

    async def drain(self, sink: Sink) -> int:
        await sink(self.row, 1)
        self.reading.set()
        await self.go_on.wait()
        if self.after:
            raise self.after.pop(0)
        return self.claimed


async def until_locked_out(pool: Pool, statements: int = 1) -> None:
    """Returns when at least so many statements of this database wait for a lock."""

    async def wait() -> bool:
        waiting = await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(waiting >= statements)

    await until(wait, f"{statements} statements wait for a lock")


class Process:
    """One server process. Those of one table and one folder are told apart by their `server_id`."""

    def __init__(self, pool: Pool, directory: SpoolDirectory, *, times: JobTimes = TIMES, **options: Any) -> None:
        self.server_id = uuid4()
        self.times = times
        self.pool = pool
        self.directory = directory
        self.source = Script()
        self.tasks = Tasks()
        self.gate = SourceGate(max_pause=0.01)
        self.idle = IdleWorkers(self.gate)
        self.store = Store(pool, self.server_id, times)
        self.queue = Queue(
            *(pool, self.server_id, times),
            folder=directory.id,
            capacity=CAPACITY,
            source_exports=options.get("source_exports"),
        )
        self.representation_store = RepresentationStore(pool, self.server_id, times)
        self.completed = CompletedCache(self.store, self.representation_store, directory, times)
        self.retention = Retention(
            *(self.store, self.representation_store, directory, self.completed),
            ttl=3600,
            history_ttl=2 * 3600,
            times=times,
        )
        self.compressing = ThreadPoolExecutor(2, "compress")
        self.representations = Representations(
            *(self.representation_store, directory, self.completed, self.retention),
            executor=self.compressing,
            capacity=COMPRESSIONS,
            times=times,
        )
        self.actives = ActiveExports(
            self.store, directory, completed=self.completed, retention=self.retention, gate=self.gate
        )
        self.runner = Runner(
            self.store,
            cast("Source", self.source),
            self.gate,
            times=times,
            source_wait=options.get("source_wait", 60.0),
            max_bytes=options.get("max_bytes"),
        )
        self.servers = Servers(pool, self.server_id, times, folder=directory.id)
        self.recovery = Recovery(
            *(self.store, self.queue, self.servers, directory, self.actives),
            representations=self.representations,
            tasks=self.tasks,
            idle=self.idle,
            times=times,
        )
        self.watch = Watch(self.store, self.queue, self.actives, self.idle, times)
        self.admission = Admission(
            *(self.store, self.queue, self.actives),
            retention=self.retention,
            representations=self.representations,
            tasks=self.tasks,
            idle=self.idle,
        )
        self.workers = Workers(
            *(self.queue, self.actives),
            runner=self.runner,
            completed=self.completed,
            gate=self.gate,
            tasks=self.tasks,
            idle=self.idle,
        )

    async def queued(self, principal: Principal = OPEN, **request: Any) -> ActiveExport:
        """Inserts a row, however many wait, and registers its export, for which no worker is woken."""
        active = self.actives.register(uuid4(), principal.name)
        queue = Queue(self.pool, self.server_id, self.times, folder=self.directory.id, capacity=1_000_000)
        accepted = await queue.accept(active.id, ExportRequest(spec=SPEC, **request), principal, begin=False)
        assert accepted is not None
        active.content = ContentDescription.of(SPEC, accepted.created_at)
        return active

    async def claimed(self, **request: Any) -> ActiveExport:
        """Queues an export, and claims it as a worker does."""
        active = await self.queued(**request)
        await self.claim(active)
        return active

    async def claim(self, active: ActiveExport) -> None:
        """Claims a queued export as a worker does. Others that wait are passed over."""
        others = await self.pool.fetch("SELECT id FROM streamer.exports WHERE id <> $1", active.id)
        export = (await self.queue.claim([row["id"] for row in others])).export
        assert export is not None
        active.begin_run(export.epoch, export.attempts)

    async def row(self, export_id: UUID) -> Any:
        return await self.pool.fetchrow("SELECT * FROM streamer.exports WHERE id = $1", export_id)

    async def change(self, export_id: UUID, **columns: object) -> None:
        """Sets columns of a row."""
        assignments = ", ".join(f"{name} = ${place}" for place, name in enumerate(columns, 2))
        await self.pool.execute(
            f"UPDATE streamer.exports SET {assignments} WHERE id = $1", export_id, *columns.values()
        )

    async def completed_export(self, content: bytes = b"id\n1\n", **columns: object) -> UUID:
        """A completed export with its file."""
        export_id = uuid4()
        await self.queue.accept(export_id, ExportRequest(spec=SPEC), OPEN, begin=False)
        await self.change(
            export_id,
            **{
                "state": "completed",
                "finished_at": datetime.now(UTC),
                "folder": self.directory.id,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).digest(),
                **columns,
            },
        )
        self.directory.file_of(export_id).write_bytes(content)
        return export_id

    def files(self) -> set[UUID]:
        """The exports that have a file."""
        return {UUID(path.stem) for path in self.directory.file_of(self.server_id).parent.glob("*.csv")}

    async def close(self) -> None:
        """Ends everything that still runs."""
        self.actives.stopping = True
        tasks = list(self.tasks._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for active in self.actives:
            active.abort("the test is over")
            await active.finished()
            await active.spool.discard()
        await self.representations.stop()
        self.compressing.shutdown()
        self.completed.close()
