"""A crowd of clients that remembers every byte it got, and the judgement of what became of its exports.

The rows change while the crowd reads: two runs of one export never give the same bytes. So if the bytes of an id were
ever made anew after somebody had some of them, the old beginning and the new rest would not fit.
"""

import asyncio
import gzip
import hashlib
import random
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from streamer.coding import Coding
from streamer.jobs.store import MAX_ATTEMPTS
from streamer.spool.identity import NAME as IDENTITY
from streamer.spool.servers import PREFIX, UNLOCKED
from tests.conftest import connected
from tests.faults.client import Answer, Client, NoEnd
from tests.polling import met

TICKS = 20_000  # rows
STAMPED = 40_000
SLOW = 1500
FINAL = 20.0  # seconds until every export has ended
TIDY = 10.0  # seconds until the files of failures are gone
PAUSE = 0.01  # seconds between two changes of the source, and between two polls

# `ticks` is read by blocks, the views by COPY. An update moves a row to another place; the views show their snapshot.
SOURCE = f"""
    CREATE TABLE ticks (id integer NOT NULL, filler text NOT NULL) WITH (fillfactor = 90);
    INSERT INTO ticks SELECT n, repeat('.', 100) FROM generate_series(1, {TICKS}) AS n;
    ANALYZE ticks;
    CREATE VIEW stamped AS
    SELECT n AS id, (extract(epoch FROM now()) * 1e6)::bigint AS taken, repeat('x', 60) AS filler
    FROM generate_series(1, {STAMPED}) AS n;
    CREATE VIEW slow AS
    SELECT n AS id, (extract(epoch FROM now()) * 1e6)::bigint AS taken,
           repeat('x', 300) || CASE n % 100 WHEN 0 THEN pg_sleep(0.03)::text ELSE '' END AS filler
    FROM generate_series(1, {SLOW}) AS n
"""
UNFINISHED = "SELECT * FROM streamer.exports WHERE state IN ('pending', 'processing')"
DATASETS = ("ticks", "stamped", "slow")
TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


def is_an_export_of(dataset: str, content: bytes) -> bool:
    """Whether these are all rows of one snapshot. The one before would differ in every row, or in their places."""
    lines = content.decode().splitlines()
    if dataset == "ticks":
        return lines[0] == "id,filler" and sorted(int(line.partition(",")[0]) for line in lines[1:]) == [
            *range(1, TICKS + 1)
        ]
    rows, width = (STAMPED, 60) if dataset == "stamped" else (SLOW, 300)
    taken = lines[1].split(",")[1]
    return lines == ["id,taken,filler", *(f"{n},{taken},{'x' * width}" for n in range(1, rows + 1))]


def decoded(coding: Coding, file: bytes) -> bytes:
    """Raises an error for a file that is not whole."""
    return gzip.decompress(file) if coding is Coding.GZIP else zstd.decompress(file)


@dataclass
class Known:
    """An export, as its clients know it."""

    id: str
    dataset: str
    content: bytes = b""  # from its first byte on, as far as anybody has got
    files: dict[Coding, bytes] = field(default_factory=dict)  # the same of its compressed files
    ended_well: bool = False
    removed: bool = False  # somebody was told so


@dataclass
class Crowd:
    """`flaws` is what should not have been."""

    client: Client
    chance: random.Random
    exports: dict[str, Known] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)
    bodies: int = 0
    gone: int = 0  # compressed files that could not be made again

    def actors(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._follow(),
            self._follow(compressed=True),
            self._resume_file(Coding.GZIP),
            self._resume_file(Coding.ZSTD),
            self._resume(),
            self._resume(),
            self._stream(),
            self._end(),
            self._read(),
            self._poll(),
        ]

    async def create(self, dataset: str) -> Known | None:
        answer = await self.client.ask("POST", "/exports/csv", dataset=dataset)
        if answer.status != 202 or not answer.whole:
            await asyncio.sleep(PAUSE)
            return None
        return self._know(answer.json()["exportId"], dataset)

    async def download(self, export: Known, **fields: str) -> Answer:
        answer = Answer()
        try:
            await self.client.ask_into(answer, "GET", f"/exports/{export.id}/download", fields)
        finally:
            self.note(export, answer)
        if answer.end is NoEnd.NO_HEAD:
            await asyncio.sleep(PAUSE)
        return answer

    def note(self, export: Known, answer: Answer) -> None:
        """What came must fit what anybody had before."""
        self.bodies += 1
        if answer.end is NoEnd.HUNG:
            self.flaws.append(f"a download of {export.id} ({export.dataset}) hung")
        if answer.status not in (200, 206) or answer.start > len(export.content):
            return
        content = answer.content()
        both = min(len(export.content) - answer.start, len(content))
        if export.content[answer.start : answer.start + both] != content[:both]:
            self.flaws.append(f"the bytes of {export.id} ({export.dataset}) have changed")
        export.content += content[len(export.content) - answer.start :] if both < len(content) else b""
        export.ended_well |= answer.whole and answer.status == 200

    async def download_file(self, export: Known, coding: Coding, **fields: str) -> Answer:
        answer = Answer()
        try:
            path = f"/exports/{export.id}/download{coding.suffix}"
            await self.client.ask_into(answer, "GET", path, fields)
        finally:
            self._note_file(export, coding, answer)
        if answer.end is NoEnd.NO_HEAD:
            await asyncio.sleep(PAUSE)
        return answer

    def _note_file(self, export: Known, coding: Coding, answer: Answer) -> None:
        """As `note`: a client that resumes has no other proof that the bytes are the same."""
        self.bodies += 1
        if answer.end is NoEnd.HUNG:
            self.flaws.append(f"a download of the {coding} of {export.id} ({export.dataset}) hung")
        known, received = export.files.get(coding, b""), bytes(answer.received)
        if answer.status not in (200, 206) or answer.start > len(known):
            return
        both = min(len(known) - answer.start, len(received))
        if known[answer.start : answer.start + both] != received[:both]:
            self.flaws.append(f"the bytes of the {coding} of {export.id} ({export.dataset}) have changed")
        export.files[coding] = known + received[both:] if both < len(received) else known

    def _know(self, export_id: str, dataset: str) -> Known:
        return self.exports.setdefault(export_id, Known(export_id, dataset))

    async def _follow(self, *, compressed: bool = False) -> None:
        while True:
            if export := await self.create(self.chance.choice(DATASETS)):
                await self.download(export, **({"Accept-Encoding": "gzip"} if compressed else {}))

    async def _resume(self) -> None:
        """Leaves in the middle, and comes back for the rest."""
        while True:
            export = await self.create(self.chance.choice(DATASETS))
            for _ in range(5 if export else 0):
                assert export
                await self._leave_early(self.download(export, Range=f"bytes={len(export.content)}-"))

    async def _resume_file(self, coding: Coding) -> None:
        """The same with a compressed file, also of an export that somebody else has begun to read."""
        while True:
            export = self._any() or await self.create(self.chance.choice(DATASETS))
            for _ in range(5 if export else 0):
                assert export
                known = export.files.get(coding, b"")
                await self._leave_early(self.download_file(export, coding, Range=f"bytes={len(known)}-"))

    async def _leave_early(self, download: Coroutine[Any, Any, Answer]) -> None:
        rest = asyncio.create_task(download)
        try:
            await asyncio.wait({rest}, timeout=self.chance.random() / 10)
        finally:
            rest.cancel()
            await asyncio.wait({rest})

    async def _stream(self) -> None:
        while True:
            answer = Answer()
            dataset = self.chance.choice(DATASETS)
            try:
                await self.client.ask_into(answer, "GET", "/exports/csv", dataset=dataset)
            finally:
                if export_id := answer.fields.get("x-export-id"):
                    self.note(self._know(export_id, dataset), answer)
            if answer.end is NoEnd.NO_HEAD:
                await asyncio.sleep(PAUSE)

    async def _end(self) -> None:
        """Cancels, and deletes."""
        while True:
            export = await self.create(self.chance.choice(DATASETS))
            await asyncio.sleep(self.chance.random() / 5)
            if export:
                answer = await self.client.ask("DELETE", f"/exports/{export.id}")
                export.removed |= answer.status == 204 and answer.whole

    async def _read(self) -> None:
        while True:
            if export := self._any():
                start = self.chance.randrange(1 + len(export.content))
                await self.download(export, **self.chance.choice([{}, {"Range": f"bytes={start}-{start + 99_999}"}]))
            await asyncio.sleep(PAUSE)

    async def _poll(self) -> None:
        while True:
            if export := self._any():
                await self.client.ask("GET", f"/exports/{export.id}/status")
            await asyncio.sleep(PAUSE)

    def _any(self) -> Known | None:
        return self.chance.choice(list(self.exports.values())) if self.exports else None


@asynccontextmanager
async def busy(crowd: Crowd) -> AsyncIterator[None]:
    """The crowd is at work while the context is open."""
    tasks = [asyncio.create_task(actor) for actor in crowd.actors()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        crowd.flaws += [f"the test itself: {end!r}" for end in ends if isinstance(end, Exception)]


@asynccontextmanager
async def changing(url: str, chance: random.Random) -> AsyncIterator[None]:
    """The source changes while the context is open."""
    task = asyncio.create_task(_change(url, chance))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _change(url: str, chance: random.Random) -> None:
    while True:
        with suppress(*TROUBLE):
            async with connected(url) as connection:
                while True:
                    some = [chance.randint(1, TICKS) for _ in range(5)]
                    await connection.execute(
                        "UPDATE ticks SET filler = repeat(chr(97 + $2), 100) WHERE id = ANY($1)",
                        some,
                        chance.randrange(26),
                    )
                    await asyncio.sleep(PAUSE)
        await asyncio.sleep(PAUSE)


class Judge:
    """What must hold once the trouble is over and a server is there."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    async def judge(self, crowd: Crowd) -> list[str]:
        """What should not be. In the end nothing is left of this crowd's exports."""
        flaws = crowd.flaws
        async with connected(self._url) as connection:
            flaws += await self._all_final(connection)
            rows = {str(row["id"]): row for row in await connection.fetch("SELECT * FROM streamer.exports")}
            flaws += [
                f"{found} was begun {row['attempts']} times"
                for found, row in rows.items()
                if row["attempts"] > MAX_ATTEMPTS
            ]
            for export in crowd.exports.values():
                if export.id in rows:
                    flaws += [
                        f"{export.id} ({export.dataset}): {flaw}"
                        for flaw in await self._of(crowd, export, rows[export.id])
                    ]
                else:
                    flaws.append(f"{export.id} was accepted, and has no row")
            wanted = {
                f"{found}{coding.suffix}"
                for found, row in rows.items()
                if row["state"] == "completed" and not row["removed_at"]
                for coding in Coding
            }
        if orphans := await self._orphans(wanted):
            flaws.append(f"nobody wants {sorted(orphans)}")
        flaws += await self._next_works(crowd)
        for export_id in {name.partition(".")[0] for name in self._files()}:
            await crowd.client.ask("DELETE", f"/exports/{export_id}")
        if left := self._files():
            flaws.append(f"could not be deleted: {sorted(left)}")
        return flaws

    async def _all_final(self, connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
        async def ended() -> bool:
            return not await connection.fetchval(f"SELECT EXISTS ({UNFINISHED})")

        if await met(ended, FINAL):
            return []
        return [
            f"{row['id']} is {row['state']} after {FINAL:g} s: {row['attempts']} attempts"
            for row in await connection.fetch(UNFINISHED)
        ]

    async def _orphans(self, wanted: set[str]) -> set[str]:
        """The row of a failure comes before the end of its file, so that may take a moment."""

        async def gone() -> bool:
            return self._files() <= wanted

        await met(gone, TIDY)
        return self._files() - wanted

    async def _of(self, crowd: Crowd, export: Known, row: "asyncpg.Record") -> list[str]:
        had = export.content
        rest = await crowd.download(export, Range=f"bytes={len(had)}-") if had else Answer()
        whole = await crowd.download(export)
        flaws = []
        if export.ended_well and row["state"] != "completed":
            flaws.append(f"a body ended well, and the export is {row['state']}")
        if row["state"] != "completed" or row["removed_at"]:
            expected = 409 if row["state"] == "failed" else 410
            if whole.status != expected or (had and rest.status != expected):
                flaws.append(f"it is {row['state']}, and answers {whole.status} and {rest.status}")
            return flaws
        if export.removed:
            flaws.append("it was deleted, and is completed")
        if whole.status == 410:
            return flaws
        if not whole.whole or whole.status != 200 or hashlib.sha256(whole.received).digest() != row["sha256"]:
            flaws.append(f"its whole is {whole.status} with {len(whole.received)} of {row['bytes']} bytes: {whole.end}")
        elif not is_an_export_of(export.dataset, bytes(whole.received)):
            flaws.append("its rows are not those of one snapshot")
        if had and rest.status != (206 if len(had) < row["bytes"] else 416):
            flaws.append(f"a resume at byte {len(had)} of {row['bytes']} is {rest.status}")
        if had and rest.status == 206 and hashlib.sha256(had + rest.received).digest() != row["sha256"]:
            flaws.append(f"resumed at byte {len(had)} it is another file")
        return flaws + await self._of_files(crowd, export, bytes(whole.received))

    async def _of_files(self, crowd: Crowd, export: Known, whole: bytes) -> list[str]:
        return [flaw for coding in export.files for flaw in await self._of_file(crowd, export, coding, whole)]

    async def _of_file(self, crowd: Crowd, export: Known, coding: Coding, whole: bytes) -> list[str]:
        """A compressed file that cannot be made again is gone, visibly."""
        had = export.files[coding]
        rest = await crowd.download_file(export, coding, Range=f"bytes={len(had)}-")
        file = await crowd.download_file(export, coding)
        if rest.status == file.status == 410:
            crowd.gone += 1
            return []
        if not file.whole or file.status != 200 or decoded(coding, bytes(file.received)) != whole:
            return [f"its {coding} is {file.status} with {len(file.received)} bytes: {file.end}"]
        if rest.status not in (206, 416) or (rest.status == 206 and had + bytes(rest.received) != bytes(file.received)):
            return [f"its {coding}, resumed at byte {len(had)}, is {rest.status} and another file"]
        return []

    async def _next_works(self, crowd: Crowd) -> list[str]:
        export = await crowd.create("ticks")
        if export is None:
            return ["the next export is refused"]
        answer = await crowd.download(export)
        if not answer.whole or not is_an_export_of("ticks", answer.content()):
            return [f"the next export is {answer.status}: {answer.end}"]
        return []

    def _files(self) -> set[str]:
        return {path.name for path in self._folder.iterdir() if path.name != IDENTITY and not _is_lock(path.name)}


def _is_lock(name: str) -> bool:
    """Whether it is the lock of a server, or of one that was killed while it made its lock: such a file goes later."""
    try:
        return name.startswith(PREFIX) and bool(UUID(name.removeprefix(PREFIX).removesuffix(UNLOCKED)))
    except ValueError:
        return False
