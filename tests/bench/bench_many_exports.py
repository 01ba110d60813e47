"""A server with many exports: its start, its list, and the eviction of a thousand files at once.

    python -m tests.bench.bench_many_exports [--rows 100000] [--files 5000] [--evicted 1000] [--runs 3]

The exports table has `--rows` rows; of them `--files` are completed exports with files in the spool folder, and the
rest have ended in other ways. The server is the real process in a memory cgroup, with its defaults but for
SPOOL_MAX_BYTES, which is so low that the first POST must evict `--evicted` files. While it does, other clients POST and
ask for /health.

Peers, in the same run: the start of a server with nothing in its table and folder, one bare SELECT of the same rows of
the list over one connection, and `rm` of the same files on the same disk. Medians, with the least and the most; the CPU
seconds of the server process are less sensitive to other work on the machine. The database is the benchmarks' own, with
databases that are made for this and dropped.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import asyncpg

from streamer.model import ExportSpec
from streamer.spool.identity import NAME as IDENTITY
from tests.bench.bench_export import ROOT, Figures, database, seed
from tests.conftest import connected, new_database
from tests.memory.confined import MB, Confined, confined

USERS = 20_000
EXPORTED = {"id__lte": "200"}  # a small export: what is measured is the room for it
FILE_SIZE = 20_000  # bytes
PAGE = 100  # exports
PAGES_READ = 50
POSTS = 5
EVERY = 0.01  # seconds between two POSTs, and between two requests for /health
FILL = """
    INSERT INTO streamer.exports
        (id, state, spec, server_id, lease_until, total_rows, processed_rows, bytes, percentage, estimated,
         created_at, started_at, finished_at, snapshot_at, removed_at, sha256, folder)
    SELECT coalesce(kept.id, gen_random_uuid()),
        CASE WHEN kept.id IS NOT NULL OR number % 10 < 6 THEN 'completed' WHEN number % 10 < 8 THEN 'failed'
             ELSE 'cancelled' END,
        $1, gen_random_uuid(), moment, 200, 200, $2, 100, false,
        moment, moment, moment, moment, CASE WHEN kept.id IS NULL THEN moment END, decode(repeat('00', 32), 'hex'), $3
    FROM generate_series(1, $4::int) AS number
    LEFT JOIN unnest($5::uuid[]) WITH ORDINALITY AS kept (id, place) ON kept.place = number,
    LATERAL (SELECT clock_timestamp() - interval '1 hour' - number * interval '10 milliseconds') AS t (moment)
"""
LIST = """
    SELECT * FROM streamer.exports WHERE (created_at, id) < (coalesce($1, 'infinity'::timestamptz), $2::uuid)
    ORDER BY created_at DESC, id DESC LIMIT $3
"""
MIDDLE = "SELECT created_at, id FROM streamer.exports ORDER BY created_at DESC, id DESC OFFSET $1 LIMIT 1"

EMPTY_START = "start of a server with nothing"
START = "start"
SELECT_FIRST, SELECT_MIDDLE = "bare SELECT of the first page", "bare SELECT of a middle page"
FIRST, IN_THE_MIDDLE = "GET /exports, the first page", "GET /exports, a page in the middle"
RM = "rm of the same number of files"
EVICTING = "POST that evicts them"
OTHER_POST = "other POSTs meanwhile, the slowest"
HEALTH = "/health meanwhile, p99"
CPU = "CPU of the server: {}"
PEERS = {START: EMPTY_START, FIRST: SELECT_FIRST, IN_THE_MIDDLE: SELECT_MIDDLE, EVICTING: RM}


@dataclass(frozen=True)
class Scale:
    rows: int
    files: int
    evicted: int

    @property
    def limit(self) -> int:
        """SPOOL_MAX_BYTES with which the next export needs the room of `evicted` files."""
        return (self.files - self.evicted) * FILE_SIZE + 1


@dataclass(frozen=True)
class Bench:
    scale: Scale
    spool: Path
    store: str
    source: str
    figures: Figures
    rss: list[float]  # megabytes

    async def run(self) -> None:
        await self._start_empty()
        async with connected(self.store) as connection:
            await self._fill(connection)
            begun = time.perf_counter()
            async with self._server(SPOOL_MAX_BYTES=str(self.scale.limit)) as server, client() as session:
                self._started(START, begun, server)
                await self._list(server, session, connection)
                await self._evict(server, session)
                self.rss.append(server.used().rss / MB)

    @asynccontextmanager
    async def _server(self, **settings: str) -> AsyncIterator[Confined]:
        async with confined(self.spool, self.store, self.source, **settings) as server:
            yield server

    async def _start_empty(self) -> None:
        """Also makes the table and the identity of the folder that the next step needs."""
        for path in self.spool.glob("*.csv"):
            path.unlink()
        async with connected(self.store) as connection:
            if await connection.fetchval("SELECT to_regclass('streamer.exports')"):
                await connection.execute("TRUNCATE streamer.exports")
            else:
                async with self._server():
                    pass
        begun = time.perf_counter()
        async with self._server() as server:
            self._started(EMPTY_START, begun, server)

    def _started(self, name: str, begun: float, server: Confined) -> None:
        self.figures.add(name, time.perf_counter() - begun)
        self.figures.add(CPU.format(name), server.cpu())

    async def _fill(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        folder = UUID(json.loads((self.spool / IDENTITY).read_text())["folder"])
        kept = [uuid4() for _ in range(self.scale.files)]
        for export_id in kept:
            (self.spool / f"{export_id}.csv").write_bytes(bytes(FILE_SIZE))
        spec = ExportSpec(dataset="users", columns=("id", "email")).to_json()
        await connection.execute(FILL, spec, FILE_SIZE, folder, self.scale.rows, kept)
        await connection.execute("VACUUM ANALYZE streamer.exports")
        await connection.execute("CHECKPOINT")
        os.sync()

    async def _list(
        self, server: Confined, session: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        middle = await connection.fetchrow(MIDDLE, self.scale.rows // 2)
        assert middle is not None
        cursor = f"{round(middle['created_at'].timestamp() * 1_000_000)}.{middle['id']}"
        places = [
            (SELECT_FIRST, FIRST, (None, UUID(int=0)), ""),
            (SELECT_MIDDLE, IN_THE_MIDDLE, tuple(middle), f"&cursor={cursor}"),
        ]
        for bare, listed, place, query in places:
            bares, lists = list[float](), list[float]()
            before = server.cpu()
            for _ in range(PAGES_READ):
                begun = time.perf_counter()
                assert len(await connection.fetch(LIST, *place, PAGE)) == PAGE
                bares.append(time.perf_counter() - begun)
                seconds, body = await answered(session, "GET", f"{server.url}/exports?limit={PAGE}{query}", 200)
                assert len(json.loads(body)["exports"]) == PAGE
                lists.append(seconds)
            self.figures.add(bare, statistics.median(bares))
            self.figures.add(listed, statistics.median(lists))
            self.figures.add(CPU.format(listed), (server.cpu() - before) / PAGES_READ)

    async def _evict(self, server: Confined, session: aiohttp.ClientSession) -> None:
        self.figures.add(RM, await asyncio.to_thread(self._rm))
        url = f"{server.url}/exports/csv"
        async with healthy(server) as health:
            before = server.cpu()
            async with asyncio.TaskGroup() as group:
                posts = []
                for _ in range(1 + POSTS):
                    posts.append(group.create_task(accepted(session, url)))
                    await asyncio.sleep(EVERY)
            first, *others = [post.result() for post in posts]
            self.figures.add(EVICTING, first)
            self.figures.add(OTHER_POST, max(others))
            self.figures.add(CPU.format("these POSTs and /health"), server.cpu() - before)
        self.figures.add(HEALTH, statistics.quantiles(health, n=100)[98])
        gone = self.scale.files + POSTS + 1 - len(list(self.spool.glob("*.csv")))
        if not self.scale.evicted <= gone <= self.scale.evicted + POSTS + 1:
            raise RuntimeError(f"{gone} files were removed instead of {self.scale.evicted}")

    def _rm(self) -> float:
        """Of copies beside the folder, on the same disk."""
        with tempfile.TemporaryDirectory(dir=self.spool.parent) as name:
            for number in range(self.scale.evicted):
                (Path(name) / f"{number}.csv").write_bytes(bytes(FILE_SIZE))
            os.sync()
            begun = time.perf_counter()
            subprocess.run(["rm", "-r", f"{name}/"], check=True)
            seconds = time.perf_counter() - begun
            Path(name).mkdir()
        return seconds


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def answered(session: aiohttp.ClientSession, method: str, url: str, status: int) -> tuple[float, bytes]:
    """Seconds, and the body."""
    begun = time.perf_counter()
    async with session.request(method, url) as response:
        body = await response.read()
        if response.status != status:
            raise RuntimeError(f"{method} {url}: {response.status} {body!r}")
    return time.perf_counter() - begun, body


async def accepted(session: aiohttp.ClientSession, url: str) -> float:
    """Seconds until an export is accepted. One that is told to come back, after 10 s, asks again at once."""
    begun = time.perf_counter()
    while True:
        async with session.post(url, params=EXPORTED) as response:
            if response.status == 202:
                return time.perf_counter() - begun
            if response.status != 503:
                raise RuntimeError(f"POST {url}: {response.status} {await response.text()}")


@asynccontextmanager
async def healthy(server: Confined) -> AsyncIterator[list[float]]:
    """Seconds of each answer of /health while the context is open."""
    found: list[float] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        while True:
            found.append((await answered(session, "GET", f"{server.url}/health", 200))[0])
            await asyncio.sleep(EVERY)

    async with client() as session:
        asking = asyncio.create_task(ask(session))
        try:
            yield found
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


def show(figures: Figures, rss: Sequence[float], scale: Scale) -> None:
    print(f"{scale.rows:,} rows, {scale.files:,} files, {scale.evicted:,} evicted; medians of {len(rss)} runs")
    for name in figures.seconds:
        print(figures.line(name, PEERS.get(name)))
    print(f"peak RSS of the server: {statistics.median(rss):.1f} MB ({min(rss):.1f} .. {max(rss):.1f})")


async def main(scale: Scale, runs: int) -> None:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(database())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "spool")))
        spool = scratch / "spool"
        spool.mkdir()
        store = await stack.enter_async_context(new_database(url))
        source = await stack.enter_async_context(new_database(url))
        await seed(source, USERS)
        print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.2f}")
        bench = Bench(scale, spool, store, source, Figures(), [])
        for _ in range(runs):
            await bench.run()
        show(bench.figures, bench.rss, scale)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--evicted", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(main(Scale(arguments.rows, arguments.files, arguments.evicted), arguments.runs))
