"""Exports without pause of what changes without pause; every one that is completed is judged by the ledger.

`Changer` runs the changes of one subject on one connection, `Exporter` exports in this process, `RemoteExporter` over
HTTP. An export may fail, visibly; what must not be is in `flaws`.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from streamer.config import Duration, Names, RoleName, Settings, Size
from streamer.errors import ExportFailure
from streamer.server import serving
from streamer.source.catalog.introspection import read_catalog
from streamer.source.source import CursorChoice
from tests.exporting import RemoteExport, sha256
from tests.faults import ledger
from tests.faults.ledger import Asked, Begun, Judge, LedgerWriter
from tests.faults.migrations import SUBJECTS, Partitioned, Session, Subject
from tests.integration.sources import WORKERS, Opened, Received, entered_as, made_role, plain_session, pooled
from tests.polling import until

EXPORTERS = 4
ATTEMPTS = 3  # of an export, when the changes are over: the first may find that the catalog is of before
VICTIM = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)
LONGEST_WAIT = "60s"  # of a change for a lock: exports are over in a moment
CONCURRENTLY = 0.15  # of the changes of a partitioned table
UPKEEP = 0.15  # of what is done to any subject
BETWEEN = 0.1  # seconds at most between two changes
OFFERS = f"""[datasets.shaped]\nhidden = ["{ledger.HIDDEN}"]\n"""
DATASETS = tuple(sorted({asked.dataset for kind in SUBJECTS for asked in kind.asked}))


@dataclass
class Tally:
    """What happened; `flaws` should not have."""

    changes: int = 0
    completed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    flaws: list[str] = field(default_factory=list)
    victims: list[str] = field(default_factory=list)

    def blame(self, what: str, flaw: str | None) -> None:
        if flaw:
            self.flaws.append(f"{what}: {flaw}")

    def __str__(self) -> str:
        completed, failed = self.completed.total(), self.failed.total()
        return (
            f"{self.changes} changes, {completed + failed} exports, {completed} completed, {failed} failed, "
            f"{len(self.flaws)} violations, {len(self.victims)} deadlocks"
        )


class Changer:
    def __init__(self, subject: Subject, session: Session, tally: Tally) -> None:
        self._subject = subject
        self._session = session
        self._tally = tally
        self._ledger = LedgerWriter(session.plain, subject.name, subject.asked, session.role)

    async def make(self) -> None:
        async with self._session.plain.transaction():
            await self._subject.make(self._session)
            await self._ledger.describe("made")
        self._session.pausing = True

    async def change_until(self, stop: asyncio.Event) -> None:
        """A change that has begun is finished: asyncpg loses track of a COPY that is cancelled."""
        while not stop.is_set():
            try:
                await self._change()
                self._tally.changes += 1
            except VICTIM as error:
                self._tally.victims.append(f"{self._subject.name}: {error}")
            await asyncio.sleep(self._session.chance.random() * BETWEEN)

    async def _change(self) -> None:
        self._session.generation += 1
        lot = self._session.chance.random()
        if lot < UPKEEP and self._subject.upkeep:
            await self._session.plain.execute(self._session.chance.choice(self._subject.upkeep))
        elif lot < UPKEEP + CONCURRENTLY and isinstance(self._subject, Partitioned):
            await self._detach_concurrently(self._subject)
        else:
            change = self._session.chance.choice(self._subject.changes)
            async with self._session.plain.transaction():
                await self._subject.prepare(self._session)
            async with self._session.plain.transaction():
                await change(self._session)
                await self._ledger.describe(change.__name__)

    async def _detach_concurrently(self, parted: Partitioned) -> None:
        """It is two transactions of its own, and the first one changes what is seen."""
        plain = self._session.plain
        part = parted.detachable(await parted.attached(self._session))
        if part is None:
            return
        async with plain.transaction():
            tried = plain.transaction()
            await tried.start()
            await plain.execute(f"ALTER TABLE parted DETACH PARTITION {part}")
            answers = await self._ledger.answers()
            await tried.rollback()
            state = await self._ledger.write("detach_concurrently", answers, settled=False)
        await plain.execute(f"ALTER TABLE parted DETACH PARTITION {part} CONCURRENTLY")
        await self._ledger.settle(state)
        await plain.execute(f"DROP TABLE {part}")


@dataclass(frozen=True)
class Way:
    """A source, and whether it reads as the role: by SET ROLE, or because the pool has logged in as the role."""

    opened: Opened
    as_role: bool


@dataclass
class Exporter:
    """Exports in this process, with every cursor, with and without the role."""

    subjects: Sequence[Subject]
    ways: Sequence[Way]
    role: str
    judge: Judge
    chance: random.Random
    tally: Tally

    async def export_for_ever(self) -> None:
        while True:
            await self.export(self.chance.choice(self.subjects), self.chance.choice(self.ways))

    async def export(self, subject: Subject, way: Way) -> None:
        questions = [asked for asked in subject.asked if asked.as_role == way.as_role]
        if questions:
            await self.ask(subject, way, self.chance.choice(questions))

    async def ask(self, subject: Subject, way: Way, asked: Asked) -> bytes | None:
        """The body; None if the export has failed."""
        begun, body = await self.judge.begin(subject.name, asked), Received()
        dataset = way.opened.catalog.get(asked.dataset)
        wanted = asked.question.spec(asked.dataset, dataset.columns if dataset else ["id"])
        try:
            async with way.opened.source.open(wanted) as rows:
                await rows.drain(body.take)
        except ExportFailure as failure:
            self.tally.failed[f"{asked.dataset}: {failure}"] += 1
            return None
        self.tally.completed[asked.dataset] += 1
        flaw = await self.judge.flaw(begun, body.body, rows.snapshot_at)
        self.tally.blame(f"{way.opened.choice} of {asked.dataset}, {asked.question.name}", flaw)
        return body.body

    async def afterwards(self) -> None:
        """When nothing changes any more, everything can be exported, with all of its columns."""
        for way in self.ways:
            for subject in self.subjects if way.opened.choice is CursorChoice.AUTO else ():
                for asked in subject.asked:
                    if asked.as_role == way.as_role and asked.question is ledger.WHOLE:
                        await self._recovered(subject, way, asked)

    async def _recovered(self, subject: Subject, way: Way, asked: Asked) -> None:
        offered = await self.judge.offered(asked, self.role if way.as_role else None)
        for _ in range(ATTEMPTS):
            body = await self.ask(subject, way, asked)
            found = body.partition(b"\n")[0].decode().split(",") if body else None
            if found == offered:
                return
        role = " as the role" if way.as_role else ""
        self.tally.blame(f"afterwards {asked.dataset}{role}", f"exported with {found} instead of {offered}")


@dataclass
class RemoteExporter:
    """Exports over HTTP: what is downloaded while it grows is what the status has the digest of."""

    subjects: Sequence[Subject]
    server: str
    as_role: bool
    judge: Judge
    chance: random.Random
    tally: Tally

    async def export_for_ever(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
            while True:
                await self.export(session)

    async def export(self, session: aiohttp.ClientSession) -> None:
        subject = self.chance.choice(self.subjects)
        of_role = [asked for asked in subject.asked if asked.as_role == self.as_role]
        if not of_role:
            return
        asked = self.chance.choice(of_role)
        begun = await self.judge.begin(subject.name, asked)
        parameters = asked.question.parameters(asked.dataset)
        async with session.post(f"{self.server}/exports/csv", params=parameters) as response:
            if response.status != 202:
                self.tally.failed[f"{asked.dataset}: POST {response.status} {(await response.text())[:200]}"] += 1
                return
            export = RemoteExport(session, self.server, (await response.json())["exportId"])
        flaw = await self._flaw(begun, export, await self._followed(export))
        self.tally.blame(f"HTTP of {asked.dataset}, {asked.question.name}", flaw)

    async def _followed(self, export: RemoteExport) -> bytes | None:
        try:
            async with export.session.get(export.download) as response:
                return await response.read() if response.status == 200 else None
        except aiohttp.ClientPayloadError:
            return None

    async def _flaw(self, begun: Begun, export: RemoteExport, body: bytes | None) -> str | None:
        status = await self._ended(export)
        dataset = begun.asked.dataset
        if status["status"] != "completed":
            self.tally.failed[f"{dataset}: {status['error']}"] += 1
            return None if body is None else f"a download ended well, and the export is {status['status']}"
        self.tally.completed[f"{dataset} over HTTP"] += 1
        if body is None or sha256(body) != status["sha256"]:
            return "the download is not what the status has the digest of"
        if not status["snapshotAt"]:
            return "a completed export has no snapshotAt"
        return await self.judge.flaw(begun, body, datetime.fromisoformat(status["snapshotAt"]))

    async def _ended(self, export: RemoteExport) -> dict[str, Any]:
        async def ended() -> bool:
            return (await export.status())["status"] not in ("pending", "processing")

        await until(ended, "an export ends", within=60)
        return await export.status()


@dataclass(frozen=True)
class Stage:
    """A database that is changed, and the one whose exports are judged: the same, or its standby."""

    changed: str
    read: str
    folder: Path
    caught_up: Callable[[], Awaitable[None]] | None = None


@asynccontextmanager
async def prepared(stage: Stage, chance: random.Random, tally: Tally) -> AsyncIterator[tuple[list[Changer], str]]:
    """All subjects are there, in their first states, and the role that may read them."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(plain_session(stage.changed))
        await first.execute(ledger.MADE)
        role = await stack.enter_async_context(made_role(first))
        await first.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}")
        changers = []
        for kind in SUBJECTS:
            plain = await stack.enter_async_context(plain_session(stage.changed))
            await plain.execute(f"SET lock_timeout = '{LONGEST_WAIT}'")
            session = Session(plain, random.Random(chance.random()), role)
            changers.append(Changer(kind(), session, tally))
            await changers[-1].make()
        yield changers, role


@asynccontextmanager
async def ways(stage: Stage, role: str) -> AsyncIterator[list[Way]]:
    """One for each cursor: without the role, by SET ROLE, and as the role that has logged in, which may lock little."""
    (stage.folder / "offers.toml").write_text(OFFERS)
    async with AsyncExitStack() as stack:
        found = []
        for url, entered in ((stage.read, None), (stage.read, role), (entered_as(stage.read, role), None)):
            pool = await stack.enter_async_context(pooled(url, size=EXPORTERS * (1 + WORKERS)))
            catalog = await read_catalog(pool, DATASETS, file=stage.folder / "offers.toml", role=entered)
            as_role = entered is not None or url != stage.read
            found += [Way(Opened(pool, catalog, choice, EXPORTERS, entered), as_role) for choice in CursorChoice]
        yield found


@asynccontextmanager
async def server(stage: Stage, role: str | None) -> AsyncIterator[str]:
    """The URL of a server that exports with its default cursor."""
    settings = Settings(
        database_url=stage.changed,
        source_database_url=stage.read,
        api_port=0,
        datasets=Names(DATASETS),
        datasets_file=stage.folder / "offers.toml",
        dataset_role=RoleName(role) if role else None,
        export_storage_path=stage.folder / "spool",
        spool_disk_reserve=Size(0),
        shutdown_timeout=Duration(0),
    )
    async with serving(settings) as url:
        yield url


async def run(stage: Stage, seed: int, seconds: float) -> Tally:
    """Changes and exports for so long."""
    chance, tally = random.Random(seed), Tally()
    async with AsyncExitStack() as stack:
        changers, role = await stack.enter_async_context(prepared(stage, chance, tally))
        if stage.caught_up:
            await stage.caught_up()
        opened = await stack.enter_async_context(ways(stage, role))
        judges = [Judge(await stack.enter_async_context(plain_session(stage.read))) for _ in range(EXPORTERS + 1)]
        subjects = [kind() for kind in SUBJECTS]
        exporters = [
            Exporter(subjects, opened, role, judge, random.Random(chance.random()), tally)
            for judge in judges[:EXPORTERS]
        ]
        as_role = chance.random() < 0.5
        url = await stack.enter_async_context(server(stage, role if as_role else None))
        remote = RemoteExporter(subjects, url, as_role, judges[-1], random.Random(chance.random()), tally)
        exporting = [*(each.export_for_ever() for each in exporters), remote.export_for_ever()]
        await _for_so_long(changers, exporting, seconds)
        if stage.caught_up:
            await stage.caught_up()
        await Exporter(subjects, opened, role, judges.pop(), chance, tally).afterwards()
    return tally


async def _for_so_long(
    changers: Sequence[Changer], exporting: Sequence[Coroutine[Any, Any, None]], seconds: float
) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        changes = [group.create_task(changer.change_until(stop)) for changer in changers]
        exports = [group.create_task(export) for export in exporting]
        await asyncio.sleep(seconds)
        stop.set()
        await asyncio.wait(changes)
        for export in exports:
            export.cancel()
