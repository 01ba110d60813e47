"""Every system call of the spools and every statement of the store fails in turn; nothing worse comes of it.

A workload goes through the life of exports: live followers in every coding, sealed downloads, a cancel, a delete, an
expiry, room made, a stop, and a restart that finds what dead servers left. One run of it counts the points; then there
is one run for each fault at each of them. What must hold in all of them:

- every export is final, or is run again and becomes so, while the same server lives;
- a body that ended well is the export, byte for byte, and the row says so; any other broke visibly;
- a completed export keeps its file until it is deleted or expires, or must go for room: an eviction is needed, and
  enough; what keeps its file is served whole after a restart, and what does not is 410;
- no file is there that no row wants, no file stays open, and a new export works.

By default each call that changes something fails once, before or after, and one of each kind that only reads; some
answers are late, and each lasting trouble comes a few times. `-m sweep` runs every error at the first, the middle and
the last time a point is met, and every trouble from every point on.

In some runs the table is shared with another server, which has a folder of its own and loses nothing either.
"""

import asyncio
import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from streamer.coding import Coding
from streamer.config import Duration, Names, Settings, Size
from streamer.errors import StartError
from streamer.http.net import sized_sender as sized
from streamer.jobs import store
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.identity import NAME as IDENTITY
from streamer.spool.names import SUFFIXES, SpoolName
from streamer.spool.pagecache import is_cached
from streamer.spool.writer import WriteLimits
from tests import seeds
from tests.conftest import SEEDS, connected
from tests.faults.client import Answer, Client
from tests.faults.points import (
    BUSY,
    CALLS,
    FILLED,
    FORBIDDEN,
    LOCKED,
    Fault,
    Faults,
    Point,
    When,
    armed,
    faults_at,
    troubles_at,
)
from tests.faults.troubles import RESERVE, can_mount, small_disk
from tests.gates import AT_A_GATE, LOCK, UNLOCK, Gates, Steps
from tests.polling import met

ROWS = 2500  # of users
GATED_ROWS = 1500
GATE = 1200
LOUD = bool(os.environ.get("SWEEP_LOUD"))  # says what went wrong at once
ROOM = 700_000  # bytes: one export must go before the last ones come
PATIENCE = 20.0  # seconds for an export to become final
AT_THE_GATE = 10.0  # seconds for followers to have their first bytes
LASTS = 1.5  # seconds of a trouble: longer than a lease, and than a statement is waited for
RARE = 3  # times that a fault is tried again: what the page cache holds, and who is faster, differs between two runs
SHARES = 4  # of the faults, each of which a worker of the tests may take
KEPT = "SELECT id, sha256 FROM streamer.exports WHERE state = 'completed' AND removed_at IS NULL"
REMOVED = "SELECT removed_at FROM streamer.exports WHERE id = $1"
SETTLED_BY_NOW = "SELECT count(*) FROM streamer.exports WHERE state IN ('pending', 'processing')"
STATVFS, SCANDIR = os.statvfs, os.scandir  # as they are, while the points stand in their place
GATED = Steps("gated", GATED_ROWS, gates=(GATE,))
CUT_OFF = f"SELECT pg_terminate_backend(pid) FROM ({AT_A_GATE}) AS standing"
LEASES = Point("sql renew_leases", "jobs.store:Store")
READING = (  # statements
    *("by_key", "claimable", "expired", "full", "get", "identity", "least_used", "lost", "next"),
    *("orphans", "page", "unknown"),
    *(f"{name} of a representation" for name in ("flushes", "garbage", "get", "least_used")),
)
LATE = (  # statements
    *("begin", "cancel", "claim", "commit", "complete", "fail", "insert"),
    *("note_removed", "note_served", "requeue"),
)
LASTING = {
    LOCKED: ("sql begin", "sql claim", "sql complete", "sql note_removed"),
    FORBIDDEN: ("sql begin", "sql complete", "sql insert", "sql note_served"),
    FILLED: ("open in spool.file:SpoolFile.create", "write in spool.file:SpoolFile.write"),
    BUSY: ("unlink in spool.directory:SpoolDirectory._remove", "rename in spool.file:SpoolFile._rename_aside"),
}
TUNING = Tuning(
    jobs=JobTimes(
        retry_delay=timedelta(milliseconds=20),
        report_interval=0.02,
        sweep_interval=0.02,
        lease=timedelta(seconds=0.6),
        statement_timeout=1.0,
        renewal=timedelta(seconds=0.1),
        stop_timeout=0.3,
    ),
    write_limits=WriteLimits(write_back=32 * 1024, max_gathered=16 * 1024, flush_interval=0.001),
)
turns = count()


@cache
def expected(dataset: str, last: int = ROWS) -> bytes:
    """What an export holds, computed without a database."""
    if dataset == "gated":
        return GATED.whole
    return b"".join(seeds.csv_bytes(seeds.rows(last)))


@dataclass
class Remote:
    """An export that was accepted, and all bodies that anybody got of it."""

    id: str
    content: bytes
    bodies: list[Answer] = field(default_factory=list)


@dataclass
class Run:
    """One run of the workload. `flaws` is what should not have been."""

    database: "asyncpg.Connection[asyncpg.Record]"
    settings: Settings
    faults: Faults
    flaws: list[str] = field(default_factory=list)
    exports: dict[str, Remote] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)  # files that the table knows nothing of
    loose: list[str] = field(default_factory=list)  # what nobody retrieved
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    client: Client = field(default_factory=lambda: Client(""))
    given_up: set[str] = field(default_factory=set)  # deleted, or expired
    neighbour: Client | None = None  # of the other server of the table
    to_free: "dict[asyncio.Task[Any] | None, int]" = field(default_factory=dict)  # bytes, as a task of the server found

    def __post_init__(self) -> None:
        self.faults.shortage = lambda: self._shortage(sizes_in(self.folder))
        self.faults.on_decision = self.note_decision
        self.faults.on_removal = self.note_removed

    @property
    def folder(self) -> Path:
        return self.settings.export_storage_path

    @property
    def theirs(self) -> Path:
        """The folder of the neighbour."""
        return self.folder.with_name("theirs")

    # What the client does.

    async def create(self, dataset: str = "users", last: int = ROWS, key: str | None = None) -> Remote | None:
        bound = {"id__lte": str(last)} if dataset == "users" else {}
        fields = {"Idempotency-Key": key} if key else {}
        answer = await self.client.ask("POST", "/exports/csv", fields, dataset=dataset, **bound)
        if answer.status != 202 or not answer.whole:
            return None
        export = Remote(answer.json()["exportId"], expected(dataset, last))
        return self.exports.setdefault(export.id, export)

    async def download(self, export: Remote | None, **fields: str) -> Answer:
        if export is None:
            return Answer()
        begun, task = self.begin_download(export, **fields)
        await task
        return begun

    async def download_from_either(self, export: Remote) -> Answer:
        """One that another server has run is in the folder of that server alone."""
        answer = await self.download(export)
        if answer.status == 503 and self.neighbour is not None:
            answer = await self.neighbour.ask("GET", f"/exports/{export.id}/download")
            export.bodies.append(answer)
        return answer

    def begin_download(self, export: Remote, **fields: str) -> tuple[Answer, "asyncio.Task[None]"]:
        answer = Answer()
        export.bodies.append(answer)
        wanted = {name.replace("_", "-"): text for name, text in fields.items()}
        path = f"/exports/{export.id}/download"
        task = asyncio.create_task(self.client.ask_into(answer, "GET", path, wanted))
        self.tasks.append(task)
        return answer, task

    async def stream(self, last: int) -> None:
        """`GET /exports/csv`."""
        answer = await self.client.ask("GET", "/exports/csv", id__lte=str(last))
        if export_id := answer.fields.get("x-export-id"):
            self.exports[export_id] = Remote(export_id, expected("users", last), [answer])

    async def delete(self, export: Remote | None) -> None:
        if export is not None:
            self.given_up.add(export.id)
            await self.client.ask("DELETE", f"/exports/{export.id}")

    async def final(self, export: Remote | None) -> str:
        """The state in the end, by the row: that is what this waits for, not the answers under test."""
        if export is None:
            return "refused"
        state = ""

        async def ended() -> bool:
            nonlocal state
            assert export
            state = await self.database.fetchval("SELECT state FROM streamer.exports WHERE id = $1", UUID(export.id))
            return state not in ("pending", "processing")

        if not await met(ended, PATIENCE):
            self.flaws.append(f"export {export.id} is {state} after {PATIENCE:g} s, and its server lives")
        return state

    async def all_final(self) -> None:
        async def settled() -> bool:
            return bool(await self.database.fetchval(SETTLED_BY_NOW) == 0)

        if not await met(settled, PATIENCE):
            for row in await self.database.fetch("SELECT * FROM streamer.exports WHERE finished_at IS NULL"):
                self.flaws.append(f"{row['id']} is {row['state']} for ever: attempts {row['attempts']}")

    # The way through the life of exports.

    async def first_life(self) -> None:
        await self._live()
        await self._run_again()
        await self._sealed()
        await self._ended_by_hand()
        await self._expired()
        await self.all_final()
        await met(self._looked_after, PATIENCE)
        await self.works(strictly=self.faults.fired)

    async def _looked_after(self) -> bool:
        """What happens at every renewal is met in every run, however fast the machine is."""
        return self.faults.counts[LEASES] > 0

    async def _live(self) -> None:
        async with self.gate_shut():
            export = await self.create("gated")
            if export is None:
                return
            followers = [
                self.begin_download(export),
                self.begin_download(export, Accept_Encoding="gzip"),
                self.begin_download(export, Range="bytes=1000-"),
                self.begin_download(export, Range="bytes=100-2000"),
            ]
            await first_bytes(answer for answer, _ in followers)
            await self.client.ask("GET", f"/exports/{export.id}/status")
        await asyncio.gather(*(task for _, task in followers))
        await self.final(export)

    async def _run_again(self) -> None:
        """The connection to the source is lost when nobody has a byte."""
        async with self.gate_shut():
            export = await self.create("gated")
            if export:
                await met(lambda: self._cut_off(export), PATIENCE)
        await self.final(export)
        await self.download(export)

    async def _cut_off(self, export: Remote) -> bool:
        """At the gate; an export that has ended never comes there."""
        if await self.database.fetch(CUT_OFF, GATED.name, GATE):
            return True
        state = await self.database.fetchval("SELECT state FROM streamer.exports WHERE id = $1", UUID(export.id))
        return state not in ("pending", "processing")

    async def _sealed(self) -> None:
        export = await self.create(last=1000, key="a key")
        again = await self.create(last=1000, key="a key")
        if export and again and export is not again:
            self.flaws.append(f"one idempotency key gave {export.id} and {again.id}")
        await self.stream(1500)
        await self.final(export or again)
        for fields in (
            {},
            {"Accept_Encoding": "gzip"},
            {"Accept_Encoding": "gzip"},
            {"Range": "bytes=5000-50000"},
            {"Range": "bytes=-10"},
        ):
            await self.download(export, **fields)
        larger = await self.create()
        await self.final(larger)
        await self.download(larger)

    async def _ended_by_hand(self) -> None:
        async with self.gate_shut():
            cancelled = await self.create("gated")
            if cancelled:
                answer, task = self.begin_download(cancelled)
                await first_bytes([answer])
                await self.delete(cancelled)
        if cancelled:
            await task
        deleted = await self.create(last=1000)
        await self.final(deleted)
        await self.download(deleted)
        await self.delete(deleted)
        await self.download(deleted)

    async def _expired(self) -> None:
        expired = await self.create(last=1000)
        if await self.final(expired) == "completed":
            assert expired
            self.given_up.add(expired.id)
            await self.database.execute(
                "UPDATE streamer.exports SET finished_at = finished_at - interval '2 days' WHERE id = $1",
                UUID(expired.id),
            )

            async def removed() -> bool:
                return await self.database.fetchval(REMOVED, UUID(expired.id)) is not None

            if not await met(removed, PATIENCE):
                self.flaws.append(f"export {expired.id} has not been removed when its time was over")
            await self.download(expired)

    async def works(self, *, strictly: bool = True) -> None:
        """A new export, whole, once no trouble lasts."""
        await self.faults.trouble.over()
        export = await self.create(last=800)
        answer = await self.download(export)
        state = await self.final(export)
        if export and state == "completed" and not answer.whole:
            answer = await self.download(export)
        if strictly and not (export and state == "completed" and answer.whole):
            self.flaws.append(f"the next export: {state}, {answer.status} {answer.end}")

    async def in_flight(self) -> None:
        """One export that somebody follows, and one that waits: the server is stopped now."""
        export = await self.create("gated")
        await self.create(last=700)
        if export is not None:
            answer, _ = self.begin_download(export)
            await first_bytes([answer])

    async def leave_dead_servers(self) -> None:
        """What a killed server leaves: its lock file, rows, parts of files, and a file without a row."""
        dead, server_id = uuid4(), uuid4()
        spec = await self.database.fetchval(
            "SELECT spec FROM streamer.exports WHERE spec LIKE '%users%800%' ORDER BY created_at DESC LIMIT 1"
        )
        (self.folder / f"{dead}.csv").write_bytes(b"the table knows nothing of this")
        self.foreign.add(f"{dead}.csv")
        (self.folder / f".owner-{server_id}").write_bytes(b"")
        if spec is None:
            return
        for served in (False, True):
            export = Remote(str(uuid4()), expected("users", 800))
            await self.database.execute(
                "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until, attempts, served)"
                " VALUES ($1, 'processing', $2, $3, clock_timestamp() + interval '1 hour', 1, $4)",
                UUID(export.id),
                spec,
                server_id,
                served,
            )
            (self.folder / f"{export.id}.csv").write_bytes(b"a part of something")
            self.exports[export.id] = export

    async def second_life(self) -> None:
        await self.all_final()
        for export in self.exports.values():
            answer = await self.download_from_either(export)
            state = await self.final(export)
            removed = await self.database.fetchval(REMOVED, UUID(export.id))
            expected = (200, 410) if removed else (200,)
            if answer.status not in expected and self.faults.fired:
                answer = await self.download_from_either(export)  # a fault is one answer's fault
            if state == "completed" and not (answer.whole and answer.status in expected):
                self.flaws.append(f"export {export.id} is completed, and is {answer.status} {answer.end}")
        await self.works(strictly=self.faults.fired)

    # What must hold.

    def note_decision(self, shortage: int) -> None:
        self.to_free[asyncio.current_task()] = shortage

    def note_removed(self, chosen: Iterable[SpoolName], removed: Sequence[SpoolName]) -> None:
        """Of what is removed for room, the files being there still: was it needed, and was it enough?"""
        evicted = [name for name in chosen if name in removed and str(name.export_id) not in self.given_up]
        sizes = sizes_in(self.folder)
        shortage = self._shortage(sizes)
        if evicted and shortage > sum(size for name, size in sizes.items() if name not in self.foreign):
            self.flaws.append(f"{evicted} were removed, and {shortage} bytes cannot be freed")
        task = asyncio.current_task()
        for name in evicted:
            if self.to_free.get(task, 0) <= 0:
                self.flaws.append(f"{name} was removed without need")
            self.to_free[task] = self.to_free.get(task, 0) - sizes.get(name.file_name, 0)

    def _shortage(self, sizes: dict[str, int]) -> int:
        """Bytes."""
        disk = STATVFS(self.folder)
        limit, reserve = self.settings.spool_max_bytes, self.settings.spool_disk_reserve
        assert limit is not None
        return max(sum(sizes.values()) + 1 - limit, reserve + 1 - disk.f_bavail * disk.f_frsize)

    async def check_files(self) -> None:
        """What is completed has its file, unless it was removed."""
        for row in await self.database.fetch(KEPT):
            name = f"{row['id']}.csv"
            file = next((folder / name for folder in (self.folder, self.theirs) if (folder / name).exists()), Path())
            if not file.is_file() or hashlib.sha256(file.read_bytes()).digest() != row["sha256"]:
                self.flaws.append(f"export {row['id']} is completed and has lost its file")

    async def check_rows(self) -> None:
        rows = {str(row["id"]): row for row in await self.database.fetch("SELECT * FROM streamer.exports")}
        for export in self.exports.values():
            row = rows[export.id]
            if row["attempts"] > store.MAX_ATTEMPTS:
                self.flaws.append(f"export {export.id} was begun {row['attempts']} times")
            if row["state"] == "completed" and row["sha256"] != hashlib.sha256(export.content).digest():
                self.flaws.append(f"export {export.id} is completed with other bytes than it should have")
            for answer in export.bodies:
                self.flaws += [f"export {export.id}: {flaw}" for flaw in flaws_of(answer, export, row["state"])]

    async def unwanted_files(self) -> set[str]:
        """When no server runs."""
        wanted = await self.database.fetch(KEPT)
        return {path.name for path in self.folder.iterdir()} - {
            IDENTITY,
            *self.foreign,
            *(f"{row['id']}{coding.suffix}" for row in wanted for coding in Coding),
        }

    @asynccontextmanager
    async def gate_shut(self) -> AsyncIterator[None]:
        await self.database.execute(LOCK, GATED.name, GATED.gates)
        try:
            yield
        finally:
            await self.database.execute(UNLOCK, GATED.name, GATED.gates)


def flaws_of(answer: Answer, export: Remote, state: str) -> Iterator[str]:
    if flaw := answer.framing_flaw():
        yield flaw
    if answer.status not in (200, 206):
        return
    content = answer.content()
    should_be = export.content[answer.start :]
    if not should_be.startswith(content):
        yield f"a body of {answer.status} is not of this export"
    if answer.whole and answer.status == 200 and (content != export.content or state != "completed"):
        yield f"a body that ended well has {len(content)} of {len(export.content)} bytes, and the export is {state}"


async def first_bytes(answers: Iterable[Answer]) -> None:
    """Waits for each to have some, or its end; not for long."""
    for answer in answers:
        try:
            async with asyncio.timeout(AT_THE_GATE):
                await answer.moved.wait()
        except TimeoutError:
            return


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of each spool."""
    with SCANDIR(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(SUFFIXES)}


def every_second_time_cold(file: int, offset: int, length: int) -> bool:
    """`is_cached`, as after the page cache has lost what was in it."""
    return next(turns) % 2 == 0 and is_cached(file, offset, length)


def open_files() -> Counter[str]:
    """What the descriptors of this process are of."""
    found = Counter[str]()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found[str(descriptor.readlink())] += 1
    return found


class Sweep:
    """Runs of the workload on one database, each in a folder of its own."""

    def __init__(self, database: "asyncpg.Connection[asyncpg.Record]", url: str, folder: Path) -> None:
        self._database = database
        self._url = url
        self._folder = folder
        self._runs = 0

    async def run(self, plan: Fault | None = None, *, shared: bool = False) -> Run:
        """With `shared` another server has the same table, and a folder of its own."""
        self._runs += 1
        if self._runs > 1:
            await self._database.execute("DROP SCHEMA IF EXISTS streamer CASCADE")
        disk = self._folder / str(self._runs)
        filled = plan is not None and plan.error == FILLED
        with small_disk(disk) if filled else nullcontext():
            return await self._run(disk / "spool", plan, shared=shared, reserve=RESERVE if filled else 0)

    async def _run(self, folder: Path, plan: Fault | None, *, shared: bool, reserve: int) -> Run:
        settings = Settings(
            database_url=self._url,
            source_database_url=self._url,
            api_port=0,
            datasets=Names(("users", "gated")),
            export_storage_path=folder,
            max_concurrent_exports=1,
            shutdown_timeout=Duration(0),
            export_ttl=Duration(24 * 60 * 60),
            spool_max_bytes=Size(ROOM),
            spool_disk_reserve=Size(reserve),
        )
        async with connected(self._url) as hand:
            faults = Faults(folder, plan, hand=hand, lasts=LASTS)
            run = Run(self._database, settings, faults)
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: run.loose.extend(_unretrieved(context)))
            before = open_files()
            async with self._neighbour(run) if shared else nullcontext():
                with armed(run.faults):
                    await self._two_lives(run)
            await run.check_rows()
            await run.check_files()
            if not await met(_no_more_files_than(before.total()), PATIENCE):
                run.flaws.append(f"more files are open than before: {sorted(open_files() - before)}")
            loop.set_exception_handler(None)
            run.flaws += run.loose
        for left in (folder, run.theirs) if shared else (folder,):
            empty(left)
        return run

    @asynccontextmanager
    async def _neighbour(self, run: Run) -> AsyncIterator[None]:
        """It has completed an export, which must stay what it is."""
        settings = msgspec.structs.replace(run.settings, export_storage_path=run.theirs)
        async with serving(settings, tuning=TUNING) as url:
            run.client = run.neighbour = Client(url)
            export = await run.create(last=900)
            await run.final(export)
            yield
            assert export
            answer = await run.neighbour.ask("GET", f"/exports/{export.id}/download")
            if not answer.whole or answer.content() != export.content:
                run.flaws.append(f"the export of the neighbour is {answer.status} {answer.end}")

    async def _two_lives(self, run: Run) -> None:
        alive = False
        while not alive and not run.flaws:
            run.faults.holding.clear()
            async with _life(run) as alive:
                if alive:
                    await self._until_held(run, self._first_life(run))
            run.faults.released.set()
            await run.faults.trouble.over()
        await self._database.execute("SELECT pg_advisory_unlock_all()")
        if run.tasks:
            await asyncio.wait(run.tasks)
        await run.leave_dead_servers()
        for _ in range(2):
            async with _life(run) as alive:
                if alive:
                    await run.second_life()
                    locks = {path.name for path in run.folder.glob(".owner-*")}
                    if len(locks) != 1:
                        run.flaws.append(f"{len(locks)} servers seem to be alive")
            await run.faults.trouble.over()
            if alive:
                break
        else:
            run.flaws.append("the server did not start again")
        if await run.unwanted_files():  # a fault in this very life; the next one tidies up
            async with _life(run):
                pass
        if unwanted := await run.unwanted_files():
            run.flaws.append(f"nobody wants {sorted(unwanted)}")

    async def _first_life(self, run: Run) -> None:
        await run.first_life()
        await self._database.execute(LOCK, GATED.name, GATED.gates)
        await run.in_flight()

    async def _until_held(self, run: Run, life: Coroutine[Any, Any, None]) -> None:
        """An answer that is late ends the life: it comes when the server has stopped."""
        working = asyncio.create_task(life)
        held = asyncio.create_task(run.faults.holding.wait())
        await asyncio.wait({working, held}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, held):
            if not task.done():
                task.cancel()
        await asyncio.wait({working, held})
        if not working.cancelled():
            working.result()


@asynccontextmanager
async def _life(run: Run) -> AsyncIterator[bool]:
    """A server, from its start to its stop. Whether it came up: a fault may prevent that, once."""
    fired = run.faults.fired
    life = serving(run.settings, tuning=TUNING)
    try:
        run.client = Client(await life.__aenter__())
    except (OSError, StartError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if fired or not run.faults.fired:
            run.flaws.append(f"the server does not start: {error!r}")
        yield False
        return
    try:
        yield True
    finally:
        stopped = run.faults.fired
        try:
            await life.__aexit__(None, None, None)
        except Exception as error:
            if stopped == run.faults.fired:
                run.flaws.append(f"the server does not stop: {error!r}")


def _no_more_files_than(number: int) -> Callable[[], Awaitable[bool]]:
    async def no_more() -> bool:
        return open_files().total() <= number

    return no_more


def _unretrieved(context: dict[str, Any]) -> Iterator[str]:
    if not context["message"].startswith("Resetting connection"):  # asyncpg says so of one that is dropped
        yield f"{context['message']}: {context.get('exception')!r}"


@pytest.fixture
async def sweep(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweep]:
    monkeypatch.setattr(sized, "is_cached", every_second_time_cold)
    logging.disable(logging.CRITICAL)
    async with connected(database) as connection:
        await connection.execute(f"ALTER DATABASE {urlsplit(database).path[1:]} SET synchronous_commit = off")
        await connection.execute("SELECT set_config('seed.rows', $1, false)", str(ROWS))
        for name in ("01_schema.sql", "02_users.sql", "03_order.sql"):
            await connection.execute((SEEDS / name).read_text(encoding="utf-8"))
        await Gates(connection, database).make(GATED)
        yield Sweep(connection, database, tmp_path)
    logging.disable(logging.NOTSET)


async def points_of(sweep: Sweep, *, shared: bool = False) -> Counter[Point]:
    """What the workload meets, and how often."""
    calm = await sweep.run(shared=shared)
    assert not calm.flaws
    states = Counter(answer.status for export in calm.exports.values() for answer in export.bodies)
    assert states.keys() >= {200, 206, 410, 409}, states
    return calm.faults.counts


def is_representative(point: Point, seen: set[str]) -> bool:
    """What changes something, and of what only reads the first of each call."""
    if point.call.startswith("sql "):
        return point.call.removeprefix("sql ") not in READING or point.call == "sql get"
    if CALLS[point.call].lasting:
        return True
    first = point.call not in seen
    seen.add(point.call)
    return first


def most_telling(point: Point, turn: int) -> tuple[When, str]:
    """Before and after the call by turns."""
    possible = faults_at(point)
    return possible[turn % min(2, len(possible))]


def representative(points: Iterable[Point]) -> Iterator[Fault]:
    seen = set[str]()
    chosen = [point for point in sorted(points) if is_representative(point, seen)]
    for turn, point in enumerate(chosen):
        yield Fault(point, *most_telling(point, turn))
        if point.call.removeprefix("sql ") in LATE:
            yield Fault(point, When.LATE)
        for trouble, named in LASTING.items():
            if point.call in named or str(point) in named:
                yield Fault(point, When.LASTING, trouble)


def every(points: Counter[Point]) -> Iterator[Fault]:
    for point, times in sorted(points.items()):
        for when, error in faults_at(point):
            for occurrence in sorted({1, (times + 1) // 2, times}):
                yield Fault(point, when, error, occurrence)
        for trouble in troubles_at(point):
            yield Fault(point, When.LASTING, trouble)


def possible(plans: Iterable[Fault], folder: Path) -> list[Fault]:
    """Only root can fill a disk, and keep a file from being removed."""
    mounting = can_mount(folder)
    return [plan for plan in plans if mounting or plan.error not in (FILLED, BUSY)]


async def violations_of(
    sweep: Sweep, plans: Iterable[Fault], *, shared: bool = False
) -> tuple[int, list[str], list[str]]:
    """How many faults there were, which of them were never met, and what went wrong."""
    runs, unmet, violations = 0, list[str](), list[str]()
    for plan in plans:
        run = await sweep.run(plan, shared=shared)
        for _ in range(RARE):
            if not run.faults.fired:  # the last time came earlier, or this time it did not come
                again = replace(plan, occurrence=max(1, run.faults.counts[plan.point]))
                run = await sweep.run(again, shared=shared)
        runs += 1
        if not run.faults.fired:
            unmet.append(str(plan))
        violations += [f"{plan} → {flaw}" for flaw in run.flaws]
        if run.flaws and LOUD:
            print(f"{plan} → {run.flaws}", file=sys.stderr, flush=True)
    return runs, unmet, violations


def judged(points: Counter[Point], runs: int, unmet: list[str], violations: list[str]) -> None:
    print(f"{len(points)} fault points, {runs} faults, {len(unmet)} not met, {len(violations)} violations")
    print("\n".join(unmet))
    assert not violations, "\n".join(violations)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(SHARES))
async def test_whatever_fails_once_leaves_no_lie(sweep: Sweep, tmp_path: Path, share: int) -> None:
    points = await points_of(sweep)
    plans = possible(representative(points), tmp_path)[share::SHARES]
    runs, unmet, violations = await violations_of(sweep, plans)
    judged(points, runs, unmet, violations)
    assert not unmet, "\n".join(unmet)


OF_THE_TABLE = (
    Fault(Point("sql complete", "jobs.store:Store"), When.LATE),
    Fault(Point("sql note_removed", "jobs.store:Store"), When.AFTER, "lost"),
    Fault(Point("sql renew_leases", "jobs.store:Store"), When.LASTING, LOCKED),
)


@pytest.mark.timeout(600)
async def test_a_server_with_a_folder_of_its_own_is_spared_the_troubles_of_another(sweep: Sweep) -> None:
    points = await points_of(sweep, shared=True)
    judged(points, *await violations_of(sweep, OF_THE_TABLE, shared=True))


@pytest.mark.sweep
@pytest.mark.timeout(7200)
async def test_a_server_with_a_folder_of_its_own_is_spared_all_troubles_of_the_table(sweep: Sweep) -> None:
    points = await points_of(sweep, shared=True)
    of_the_table = Counter({point: times for point, times in points.items() if point.call.startswith("sql ")})
    judged(points, *await violations_of(sweep, every(of_the_table), shared=True))


@pytest.mark.sweep
@pytest.mark.timeout(7200)
async def test_whatever_fails_however_and_whenever_leaves_no_lie(sweep: Sweep, tmp_path: Path) -> None:
    points = await points_of(sweep)
    judged(points, *await violations_of(sweep, possible(every(points), tmp_path)))
