"""A stateful test: two servers with one table and one folder, and operations on exports in any order.

The table, the queues, the spools and the locks are real. The source yields a row, ends or fails at a command of the
test, and every run of an export has other bytes. A trigger records every change of a state. Invariants: states change
only as the table of transitions allows, no export runs twice at once, no client sees bytes of two runs of one export,
and at the end there is a file for every completed row and a completed row for every file.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamer.errors import ClientError, ExportFailure, TransientFailure
from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.jobs import Jobs
from streamer.jobs.queue import Queue
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.representations.making import Representations
from streamer.jobs.retention import Retention
from streamer.jobs.runner import Runner
from streamer.jobs.servers import Servers
from streamer.jobs.store import MAX_ATTEMPTS, Store
from streamer.jobs.table import Table
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, OPEN, ExportRequest, ExportSpec, State, successors
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.pool import connect
from streamer.source.cursors.cursor import Sink
from streamer.source.source import Source
from streamer.spool.directory import SpoolDirectory
from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.servers import PREFIX
from tests.conftest import files_and_locks, files_in, made_database
from tests.polling import until

T = TypeVar("T")
PATIENCE = 15.0  # seconds
CONCURRENCY = 2
CAPACITY = 3
TIMES = JobTimes(
    retry_delay=timedelta(0),
    renewal=timedelta(hours=1),
    poll_interval=3600.0,
    report_interval=3600.0,
    cache_lifetime=0.0,
)
HEADER = b"run,row\n"
STORE = uuid4()  # the identity of the exports table
SLOTS = st.integers(0, 1)  # the two places for a server
PLACES = st.integers(0, 5)  # of an export among those there are

JOURNAL = """
    CREATE TABLE journal (id uuid, before text, after text, attempts integer, served boolean, was_served boolean);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO journal VALUES (NEW.id, OLD.state, NEW.state, NEW.attempts, NEW.served, OLD.served);
        RETURN NEW;
    END $$;
    CREATE TRIGGER journal AFTER UPDATE ON streamer.exports FOR EACH ROW EXECUTE FUNCTION note();
"""


@dataclass(eq=False)
class Run:
    """One run of an export in the source, controlled by `orders`."""

    number: int
    server_id: UUID
    orders: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    rows: int = 0

    snapshot_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    expected: int = 0
    truncated: bool = False

    async def drain(self, sink: Sink) -> int:
        await sink(HEADER, 0)
        while (order := await self.orders.get()) == "row":
            self.rows += 1
            await sink(b"%d,%d\n" % (self.number, self.rows), 1)
        if order == "break":
            raise TransientFailure("the connection to the database was lost")
        if order == "refuse":
            raise ExportFailure("PostgreSQL: permission denied")
        return self.rows


class FakeSource:
    """The source of both servers. While it `hurries`, every run ends by itself."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}  # that are open, by their dataset
        self.hurries = False
        self.twice = False  # an export was run by two at once
        self._number = 0

    def of(self, server_id: UUID) -> Source:
        return cast("Source", _SourceOfServer(self, server_id))

    @asynccontextmanager
    async def open(self, server_id: UUID, spec: ExportSpec) -> AsyncIterator[Run]:
        self.twice |= spec.dataset in self.runs
        self._number += 1
        run = self.runs[spec.dataset] = Run(self._number, server_id)
        if self.hurries:
            run.orders.put_nowait("row")
            run.orders.put_nowait("end")
        try:
            yield run
        finally:
            if self.runs.get(spec.dataset) is run:
                del self.runs[spec.dataset]

    def hurry(self) -> None:
        self.hurries = True
        for run in self.runs.values():
            run.orders.put_nowait("end")


@dataclass(frozen=True)
class _SourceOfServer:
    source: FakeSource
    server_id: UUID

    def open(self, spec: ExportSpec) -> Any:
        return self.source.open(self.server_id, spec)


class Mortal(Table):
    """Is cut off from the database when its server dies."""

    cut_off = False

    async def _attempt(self, work: Any) -> Any:
        if self.cut_off:
            raise ConnectionResetError
        return await super()._attempt(work)


class MortalStore(Mortal, Store):
    pass


class MortalQueue(Mortal, Queue):
    pass


class MortalServers(Mortal, Servers):
    pass


async def refuse() -> Connection:
    """No server has a session of its own: it would do things at moments that no rule decides."""
    raise ConnectionRefusedError


class Server:
    """The composition of `server.py`, without HTTP."""

    def __init__(self, pool: Pool, folder: Path, executor: ThreadPoolExecutor, source: FakeSource) -> None:
        self.server_id = uuid4()
        self.source = source
        self.store = MortalStore(pool, self.server_id, TIMES)
        self.directory = SpoolDirectory(folder, executor)
        self.directory.claim(STORE)
        self.queue = MortalQueue(pool, self.server_id, TIMES, folder=self.directory.id, capacity=CAPACITY)
        self.servers = MortalServers(pool, self.server_id, TIMES, folder=self.directory.id)
        compressed = RepresentationStore(pool, self.server_id, TIMES)
        self.sealed = CompletedCache(self.store, compressed, self.directory, TIMES)
        self.retention = Retention(
            self.store, compressed, self.directory, self.sealed, ttl=0, history_ttl=3600, times=TIMES
        )
        representations = Representations(
            *(compressed, self.directory, self.sealed, self.retention), executor=executor, capacity=1, times=TIMES
        )
        gate = SourceGate()
        self.jobs = Jobs(
            self.store,
            self.queue,
            Runner(self.store, source.of(self.server_id), gate, source_wait=60, times=TIMES),
            servers=self.servers,
            connect=refuse,
            directory=self.directory,
            completed=self.sealed,
            retention=self.retention,
            representations=representations,
            gate=gate,
            concurrency=CONCURRENCY,
            times=TIMES,
        )
        self._lock = folder / f"{PREFIX}{self.server_id}"
        self._alive = ExitStack()

    async def start(self) -> None:
        self._alive.enter_context(self.directory.alive(self.server_id))
        await self.jobs.start()

    async def stop(self) -> None:
        await self.jobs.stop()
        self.sealed.close()
        self._alive.close()

    async def die(self) -> None:
        """Simulates kill -9: nothing is written to the table, no file is removed, and the lock is released."""
        self.store.cut_off = self.queue.cut_off = self.servers.cut_off = True
        lives = list(self.jobs._actives)
        for live in lives:
            setattr(live.spool, "discard", _nothing)  # noqa: B010 - the type checker is right to forbid it
        tasks = list(self.jobs._tasks._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for live in lives:
            live.spool.fail("dead")
            await asyncio.wait({asyncio.ensure_future(live.spool._writer.stop())})
            live.spool._file.close()
        self.jobs._actives.clear()
        self.sealed.close()
        self._alive.close()
        self._lock.touch()

    async def look_after(self) -> None:
        """What happens at every renewal, and at every look at the queue."""
        await self.jobs.recovery.renew()
        await self.jobs.recovery.recover_orphans()
        await self.jobs.watch.look()

    def at_rest(self) -> bool:
        """Whether nothing happens here without another request."""
        running = [live for live in self.jobs._actives if not live.waiting]
        if len(running) != sum(run.server_id == self.server_id for run in self.source.runs.values()):
            return False
        idle = not self.jobs.workers._idle.woken and not self.jobs.workers._claiming.locked()
        return len(running) == CONCURRENCY or idle


async def _nothing() -> None:
    pass


class LifeCycle(RuleBasedStateMachine):
    """`ids` are all exports so far, `seen` the bytes that any client has read of one.

    Which rules may run never depends on what the threads of a server have done by then.
    """

    def __init__(self, database: str, folder: Path) -> None:
        super().__init__()
        self._database = database
        self._folder = folder
        self._runner = asyncio.Runner()
        self._executor = ThreadPoolExecutor(4)
        self.source = FakeSource()
        self.servers: list[Server | None] = [None, None]
        self.ids: list[UUID] = []
        self.seen: dict[UUID, bytes] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the work, and returns when both servers are at rest."""

        async def wholly() -> T:
            async with asyncio.timeout(PATIENCE):
                result = await work
                await until(self._at_rest, "everything comes to rest")
                return result

        return self._runner.run(wholly())

    async def _at_rest(self) -> bool:
        return all(server.at_rest() for server in self.alive)

    @property
    def alive(self) -> list[Server]:
        return [server for server in self.servers if server is not None]

    def export(self, place: int) -> UUID:
        return self.ids[place % len(self.ids)]

    @initialize()
    def begin(self) -> None:
        async def prepared() -> Pool:
            pool = await connect(self._database, name="DATABASE_URL", size=6, wait=PATIENCE)
            await pool.execute("TRUNCATE streamer.exports, streamer.representations, streamer.flushes, journal")
            return pool

        self._pool = self.do(prepared())
        for path in self._folder.iterdir():
            path.unlink()
        for slot in (0, 1):
            self.servers[slot] = self.do(self._started())

    async def _started(self) -> Server:
        server = Server(self._pool, self._folder, self._executor, self.source)
        await server.start()
        return server

    @rule(slot=SLOTS)
    def create(self, slot: int) -> None:
        if (server := self.servers[slot]) is not None:
            self.do(self._create(server))

    async def _create(self, server: Server) -> None:
        with suppress(ClientError):
            spec = ExportSpec(dataset=f"export_{len(self.ids)}", columns=("run", "row"))
            live = await server.jobs.admission.submit(ExportRequest(spec=spec), OPEN)
            assert isinstance(live, ActiveExport)
            self.ids.append(live.id)

    @rule(place=PLACES, order=st.sampled_from(["row", "row", "row", "end", "end", "break", "refuse"]))
    def run(self, place: int, order: str) -> None:
        if runs := list(self.source.runs.values()):
            self.do(self._ordered(runs[place % len(runs)], order))

    async def _ordered(self, run: Run, order: str) -> None:
        rows = run.rows
        run.orders.put_nowait(order)

        async def done() -> bool:
            return run.rows > rows if order == "row" else run not in self.source.runs.values()

        await until(done, f"the run does what it is told: {order}")

    @rule(slot=SLOTS, place=PLACES)
    def read(self, slot: int, place: int) -> None:
        if (server := self.servers[slot]) is not None and self.ids:
            self.do(self._read(server, self.export(place)))

    async def _read(self, server: Server, export_id: UUID) -> None:
        with suppress(ClientError, TruncatedError):
            if live := server.jobs.admission.active(export_id, EVERYBODY):
                self._saw(export_id, await self._follow(live))
            else:
                self._saw(export_id, await self._read_sealed(server, export_id), whole=True)

    async def _follow(self, live: ActiveExport) -> bytes:
        """Reads the bytes that are available."""
        with live.followed(), Follower(live.spool, before_first=live.ensure_served) as follower:
            read = b""
            while not follower.caught_up:
                extent = await anext(follower)
                read += os.pread(follower.file.fileno(), extent.length, extent.offset)
            return read

    async def _read_sealed(self, server: Server, export_id: UUID) -> bytes:
        with await server.sealed.acquire(export_id, EVERYBODY) as sealed:
            await server.sealed.ensure_verified(sealed)
            read = os.pread(sealed.file.fileno(), sealed.length + 1, 0)
            assert hashlib.sha256(read).digest() == sealed.export.sha256
            return read

    def _saw(self, export_id: UUID, read: bytes, *, whole: bool = False) -> None:
        before = self.seen.get(export_id, b"")
        common = min(len(before), len(read))
        assert before[:common] == read[:common], "the bytes of an export have changed"
        assert not whole or len(read) >= len(before), "a sealed export is shorter than what was served of it"
        self.seen[export_id] = max(before, read, key=len)

    @rule(slot=SLOTS, place=PLACES, at_once=st.integers(1, 3), removing=st.booleans())
    def cancel(self, slot: int, place: int, at_once: int, removing: bool) -> None:
        """Cancels an export, or removes it if it has ended."""
        if (server := self.servers[slot]) is not None and self.ids:
            self.do(self._cancel(server, self.export(place), at_once, removing))

    async def _cancel(self, server: Server, export_id: UUID, at_once: int, removing: bool) -> None:
        act = server.jobs.admission.remove if removing else server.jobs.admission.cancel
        found = await asyncio.gather(*(act(export_id, EVERYBODY) for _ in range(at_once)))
        assert all(export.final for export in found)
        for other in self.alive:
            if other is not server and (live := other.jobs.admission.active(export_id, EVERYBODY)) and not live.waiting:
                live.abort("cancelled elsewhere")  # as its next report would
                await live.finished()
        await self._look_after()

    @rule(slot=SLOTS)
    def expire(self, slot: int) -> None:
        if (server := self.servers[slot]) is not None:
            self.do(server.retention.expire())

    @rule(slot=SLOTS)
    def die(self, slot: int) -> None:
        server, self.servers[slot] = self.servers[slot], None
        if server is not None:
            self.do(server.die())

    @rule(slot=SLOTS)
    def stop(self, slot: int) -> None:
        server, self.servers[slot] = self.servers[slot], None
        if server is not None:
            self.do(server.stop())

    @rule(slot=SLOTS)
    def restart(self, slot: int) -> None:
        if self.servers[slot] is None:
            self.servers[slot] = self.do(self._started())

    @rule()
    def look_after(self) -> None:
        self.do(self._look_after())

    async def _look_after(self) -> None:
        await asyncio.gather(*(server.look_after() for server in self.alive))

    @precondition(lambda self: hasattr(self, "_pool"))
    @invariant()
    def every_change_is_allowed(self) -> None:
        assert not self.source.twice, "an export is run twice at once"
        for change in self._runner.run(self._pool.fetch("SELECT * FROM journal")):
            before, after = State(change["before"]), State(change["after"])
            assert before is after or after in successors(before), f"{before} → {after}"
            assert change["attempts"] <= MAX_ATTEMPTS
            assert change["served"] >= change["was_served"], "what was served is forgotten"
            if change["was_served"]:
                assert after is not State.PENDING, "an export that was served is run again"

    def teardown(self) -> None:
        try:
            if hasattr(self, "_pool"):
                self._end()
        finally:
            self._runner.close()
            self._executor.shutdown()

    def _end(self) -> None:
        """Lets every export end, and checks rows against files."""
        for slot in (0, 1):
            self.restart(slot)
        self.source.hurry()
        self._runner.run(self._settled())
        for export_id in self.ids:
            for server in self.alive:
                self._runner.run(self._read(server, export_id))
        self.every_change_is_allowed()
        files = {f"{export_id}.csv" for export_id in self._runner.run(self._completed())}
        assert files_in(self._folder) == files
        for server in self.alive:
            self._runner.run(server.stop())
        assert files_and_locks(self._folder) == files
        self._runner.run(self._pool.close())

    async def _settled(self) -> None:
        async def over() -> bool:
            await self._look_after()
            unfinished = "SELECT count(*) FROM streamer.exports WHERE state IN ('pending', 'processing')"
            return not await self._pool.fetchval(unfinished) and not any(list(s.jobs._actives) for s in self.alive)

        await until(over, "every export has ended")

    async def _completed(self) -> set[UUID]:
        rows = await self._pool.fetch(
            "SELECT id FROM streamer.exports WHERE state = 'completed' AND removed_at IS NULL"
        )
        return {row["id"] for row in rows}


@pytest.fixture
def life_cycle(postgres: str, tmp_path: Path) -> Iterator[Callable[[], "LifeCycle"]]:
    """Creates state machines on one database."""

    async def prepare(database: str) -> None:
        pool = await connect(database, name="DATABASE_URL", size=1, wait=PATIENCE)
        await Store(pool, uuid4(), TIMES).migrate()
        await pool.execute(JOURNAL)
        await pool.close()

    with made_database(postgres) as database:
        asyncio.run(prepare(database))
        yield lambda: LifeCycle(database, tmp_path)


def test_whatever_happens_every_rule_holds(life_cycle: Callable[[], LifeCycle]) -> None:
    run_state_machine_as_test(
        life_cycle,  # type: ignore[arg-type] # whatever makes a machine will do
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
