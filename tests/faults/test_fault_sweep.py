"""Every system call of the spools and every statement of the store fails in turn; nothing worse comes of it.

A workload goes through the life of exports: live followers in every coding, sealed downloads, a cancel, a delete, an
expiry, room made, a stop, and a restart that finds what dead servers left. One run of it counts the points; then there
is one run for each fault at each of them. What must hold in all of them:

- every export is final, or is run again and becomes so, while the same server lives;
- a body that ended well is the export, byte for byte, and the row says so; any other broke visibly;
- after a restart no file is there that no row wants, and a completed export is served whole or is 410;
- no file stays open, and a new export works.

By default each point fails before and after its call once; `-m sweep` runs every error at the first, the middle and
the last time a point is met.
"""

import asyncio
import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from streamer.config import Duration, Names, Settings, Size
from streamer.errors import StartError
from streamer.http import sized
from streamer.jobs import queue, retention, runner, store
from streamer.server import serving
from streamer.spool import spool
from streamer.spool.identity import NAME as IDENTITY
from streamer.spool.pagecache import is_cached
from tests import seeds
from tests.conftest import SEEDS, connected
from tests.faults.client import Answer, Client
from tests.faults.points import Fault, Faults, Point, When, armed, faults_at
from tests.faults.polling import met
from tests.gates import AT_A_GATE, LOCK, UNLOCK, Gates, Steps

ROWS = 2500  # of users
GATED_ROWS = 1500
GATE = 1200
LOUD = bool(os.environ.get("SWEEP_LOUD"))  # says what went wrong at once
ROOM = 700_000  # bytes: one export must go before the last ones come
PATIENCE = 20.0  # seconds for an export to become final
AT_THE_GATE = 10.0  # seconds for followers to have their first bytes
SETTLED_BY_NOW = "SELECT count(*) FROM streamer.exports WHERE state IN ('pending', 'processing')"
GATED = Steps("gated", GATED_ROWS, gates=(GATE,))
CUT_OFF = f"SELECT pg_terminate_backend(pid) FROM ({AT_A_GATE}) AS standing"
LEASES = Point("sql lost", "jobs.store:Store")
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

    @property
    def folder(self) -> Path:
        return self.settings.export_storage_path

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
        """What happens every RENEWAL is met in every run, however fast the machine is."""
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
        for fields in ({}, {"Accept_Encoding": "gzip"}, {"Range": "bytes=5000-50000"}, {"Range": "bytes=-10"}):
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
            await self.database.execute(
                "UPDATE streamer.exports SET finished_at = finished_at - interval '2 days' WHERE id = $1",
                UUID(expired.id),
            )

            async def removed() -> bool:
                row = await self.database.fetchval(
                    "SELECT removed_at FROM streamer.exports WHERE id = $1", UUID(expired.id)
                )
                return row is not None

            if not await met(removed, PATIENCE):
                self.flaws.append(f"export {expired.id} has not been removed when its time was over")
            await self.download(expired)

    async def works(self, *, strictly: bool = True) -> None:
        """A new export, whole."""
        export = await self.create(last=800)
        answer = await self.download(export)
        state = await self.final(export)
        if export and state == "completed" and not answer.whole:
            answer = await self.download(export)
        if strictly and not (export and state == "completed" and answer.whole):
            self.flaws.append(f"the next export: {state}, {answer.status} {answer.end}")

    async def in_flight(self) -> list["asyncio.Task[None]"]:
        """One export that somebody follows, and one that waits: the server is stopped now."""
        export = await self.create("gated")
        await self.create(last=700)
        if export is None:
            return []
        answer, task = self.begin_download(export)
        await first_bytes([answer])
        return [task]

    async def leave_dead_owners(self) -> None:
        """What a killed server leaves: its lock file, rows, parts of files, and a file without a row."""
        dead, owner = uuid4(), uuid4()
        spec = await self.database.fetchval(
            "SELECT spec FROM streamer.exports WHERE spec LIKE '%users%800%' ORDER BY created_at DESC LIMIT 1"
        )
        (self.folder / f"{dead}.csv").write_bytes(b"the table knows nothing of this")
        self.foreign.add(f"{dead}.csv")
        (self.folder / f".owner-{owner}").write_bytes(b"")
        if spec is None:
            return
        for served in (False, True):
            export = Remote(str(uuid4()), expected("users", 800))
            await self.database.execute(
                "INSERT INTO streamer.exports (id, state, spec, owner, lease_until, attempts, served)"
                " VALUES ($1, 'processing', $2, $3, clock_timestamp() + interval '1 hour', 1, $4)",
                UUID(export.id),
                spec,
                owner,
                served,
            )
            (self.folder / f"{export.id}.csv").write_bytes(b"a part of something")
            self.exports[export.id] = export

    async def second_life(self) -> None:
        await self.all_final()
        for export in self.exports.values():
            answer = await self.download(export)
            state = await self.final(export)
            if answer.status >= 500 and self.faults.fired:
                answer = await self.download(export)  # a fault is one answer's fault
            if state == "completed" and not (answer.whole and answer.status in (200, 410)):
                self.flaws.append(f"export {export.id} is completed, and is {answer.status} {answer.end}")
        await self.works(strictly=self.faults.fired)

    # What must hold.

    async def check_rows(self) -> None:
        rows = {str(row["id"]): row for row in await self.database.fetch("SELECT * FROM streamer.exports")}
        for export in self.exports.values():
            row = rows[export.id]
            if row["attempts"] > store.ATTEMPTS:
                self.flaws.append(f"export {export.id} was begun {row['attempts']} times")
            if row["state"] == "completed" and row["sha256"] != hashlib.sha256(export.content).digest():
                self.flaws.append(f"export {export.id} is completed with other bytes than it should have")
            for answer in export.bodies:
                self.flaws += [f"export {export.id}: {flaw}" for flaw in flaws_of(answer, export, row["state"])]

    async def unwanted_files(self) -> set[str]:
        """When no server runs."""
        wanted = await self.database.fetch(
            "SELECT id FROM streamer.exports WHERE state = 'completed' AND removed_at IS NULL"
        )
        return {path.name for path in self.folder.iterdir()} - {
            IDENTITY,
            *self.foreign,
            *(f"{row['id']}.csv" for row in wanted),
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

    async def run(self, plan: Fault | None = None) -> Run:
        self._runs += 1
        if self._runs > 1:
            await self._database.execute("DROP SCHEMA IF EXISTS streamer CASCADE")
        settings = Settings(
            database_url=self._url,
            source_database_url=self._url,
            api_port=0,
            datasets=Names(("users", "gated")),
            export_storage_path=self._folder / str(self._runs),
            max_concurrent_exports=1,
            shutdown_grace=Duration(0),
            export_ttl=Duration(24 * 60 * 60),
            spool_max_bytes=Size(ROOM),
            spool_disk_reserve=Size(0),
        )
        run = Run(self._database, settings, Faults(settings.export_storage_path, plan))
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: run.loose.extend(_unretrieved(context)))
        before = open_files()
        with armed(run.faults):
            await self._two_lives(run)
        await run.check_rows()
        if not await met(_no_more_files_than(before.total()), PATIENCE):
            run.flaws.append(f"more files are open than before: {sorted(open_files() - before)}")
        loop.set_exception_handler(None)
        run.flaws += run.loose
        for path in settings.export_storage_path.glob("*"):
            path.unlink()
        return run

    async def _two_lives(self, run: Run) -> None:
        followers: list[asyncio.Task[None]] = []
        alive = False
        while not alive and not run.flaws:
            async with _life(run) as alive:
                if alive:
                    await run.first_life()
                    await self._database.execute(LOCK, GATED.name, GATED.gates)
                    followers = await run.in_flight()
        await self._database.execute("SELECT pg_advisory_unlock_all()")
        await asyncio.gather(*followers)
        await run.leave_dead_owners()
        for _ in range(2):
            async with _life(run) as alive:
                if alive:
                    await run.second_life()
                    owners = {path.name for path in run.folder.glob(".owner-*")}
                    if len(owners) != 1:
                        run.flaws.append(f"{len(owners)} servers seem to be alive")
            if alive:
                break
        else:
            run.flaws.append("the server did not start again")
        if await run.unwanted_files():  # a fault in this very life; the next one tidies up
            async with _life(run):
                pass
        if unwanted := await run.unwanted_files():
            run.flaws.append(f"nobody wants {sorted(unwanted)}")


@asynccontextmanager
async def _life(run: Run) -> AsyncIterator[bool]:
    """A server, from its start to its stop. Whether it came up: a fault may prevent that, once."""
    fired = run.faults.fired
    life = serving(run.settings)
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
    monkeypatch.setattr(spool, "WRITE_BACK", 32 * 1024)
    monkeypatch.setattr(spool, "GATHER_LIMIT", 16 * 1024)
    monkeypatch.setattr(spool, "SPACING", 0.001)
    monkeypatch.setattr(runner, "FIRST_DELAY", timedelta(milliseconds=20))
    monkeypatch.setattr(runner, "REPORT_INTERVAL", 0.02)
    monkeypatch.setattr(retention, "SWEEP_INTERVAL", 0.02)
    monkeypatch.setattr(store, "LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr(queue, "RENEWAL", timedelta(seconds=0.1))
    logging.disable(logging.CRITICAL)
    async with connected(database) as connection:
        await connection.execute(f"ALTER DATABASE {urlsplit(database).path[1:]} SET synchronous_commit = off")
        await connection.execute("SELECT set_config('seed.rows', $1, false)", str(ROWS))
        for name in ("01_schema.sql", "02_users.sql", "03_order.sql"):
            await connection.execute((SEEDS / name).read_text(encoding="utf-8"))
        await Gates(connection, database).make(GATED)
        yield Sweep(connection, database, tmp_path)
    logging.disable(logging.NOTSET)


async def points_of(sweep: Sweep) -> Counter[Point]:
    """What the workload meets, and how often."""
    calm = await sweep.run()
    assert not calm.flaws
    states = Counter(answer.status for export in calm.exports.values() for answer in export.bodies)
    assert states.keys() >= {200, 206, 410, 409}, states
    return calm.faults.counts


def most_telling(point: Point, turn: int) -> tuple[When, str]:
    """Before and after the call by turns."""
    possible = faults_at(point)
    return possible[turn % min(2, len(possible))]


async def violations_of(sweep: Sweep, plans: Iterable[Fault]) -> tuple[int, list[str], list[str]]:
    """How many faults there were, which of them were never met, and what went wrong."""
    runs, unmet, violations = 0, list[str](), list[str]()
    for plan in plans:
        run = await sweep.run(plan)
        if not run.faults.fired and run.faults.counts[plan.point]:  # the last time came earlier
            run = await sweep.run(replace(plan, occurrence=run.faults.counts[plan.point]))
        runs += 1
        if not run.faults.fired:
            unmet.append(str(plan))
        violations += [f"{plan} → {flaw}" for flaw in run.flaws]
        if run.flaws and LOUD:
            print(f"{plan} → {run.flaws}", file=sys.stderr, flush=True)
    return runs, unmet, violations


@pytest.mark.timeout(900)
async def test_whatever_fails_once_leaves_no_lie(sweep: Sweep, record_property: Callable[[str, object], None]) -> None:
    points = await points_of(sweep)
    plans = [Fault(point, *most_telling(point, turn)) for turn, point in enumerate(sorted(points))]
    runs, unmet, violations = await violations_of(sweep, plans)
    record_property("points", len(points))
    print(f"{len(points)} fault points, {runs} faults, {len(unmet)} not met, {len(violations)} violations")
    assert not violations, "\n".join(violations)
    assert not unmet, "\n".join(unmet)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
async def test_whatever_fails_however_and_whenever_leaves_no_lie(
    sweep: Sweep, record_property: Callable[[str, object], None]
) -> None:
    points = await points_of(sweep)
    plans = [
        Fault(point, when, error, occurrence)
        for point, count in sorted(points.items())
        for when, error in faults_at(point)
        for occurrence in sorted({1, (count + 1) // 2, count})
    ]
    runs, unmet, violations = await violations_of(sweep, plans)
    record_property("points", len(points))
    print(f"{len(points)} fault points, {runs} faults, {len(unmet)} not met, {len(violations)} violations")
    print("\n".join(unmet))
    assert not violations, "\n".join(violations)
