"""Export and live download against `psql \\copy`, and the choice of cursor against plain COPY, side by side.

    python -m tests.bench.bench_export [--rows 10000000] [--runs 5]

Each run takes the peer and ours in turn, so that a machine whose speed drifts drifts for both; what is printed are
medians and the ratio of the medians. The servers are real processes, one as it comes and one with EXPORT_METHOD=copy.
The database is the embedded one, kept in .streamer/bench for the next time, or that of DATABASE_URL, where the tables
are made once.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg

from streamer.embedded import embedded_postgres
from tests.programs import PSQL

ROOT = Path(__file__).parents[2]
POLL = 0.01  # seconds between two looks at a status: more often would slow the export down
SMALL_ROWS = 10_000
FILTERS = {
    "1/7 of the rows": "?country_code=US",
    "0.1 % of the rows": "?lifetime_value__gte=9990",
}
SMALL = "users_small"
STREAMER = Path(sys.executable).with_name("streamer")


@dataclass
class Figures:
    """Seconds of each run, by what was measured."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.seconds.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def line(self, name: str, peer: str | None = None) -> str:
        runs = sorted(self.seconds[name])
        ratio = f"   {self.median(name) / self.median(peer):5.2f} x {peer}" if peer else ""
        return f"{name:<34}{self.median(name):9.4f} s   ({runs[0]:.4f} .. {runs[-1]:.4f}){ratio}"


@contextmanager
def database() -> Iterator[str]:
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    folder = ROOT / ".streamer" / "bench"
    folder.parent.mkdir(exist_ok=True)
    with embedded_postgres(folder) as url:
        yield url


async def seed(url: str, rows: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute((ROOT / "seeds" / "01_schema.sql").read_text())
        present = await connection.fetchval("SELECT count(*) FROM users")
        if present != rows:
            await connection.execute("TRUNCATE users")
            await connection.execute("SELECT set_config('seed.rows', $1, false)", str(rows))
            await connection.execute((ROOT / "seeds" / "02_users.sql").read_text())
            await connection.execute((ROOT / "seeds" / "03_order.sql").read_text())
        await connection.execute(f"DROP TABLE IF EXISTS {SMALL}")
        await connection.execute(f"CREATE TABLE {SMALL} AS SELECT * FROM users WHERE id <= {SMALL_ROWS} ORDER BY id")
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


@asynccontextmanager
async def server(database_url: str, folder: Path, cursor: str = "auto") -> AsyncIterator[tuple[str, int]]:
    """The real process: its URL and its process id."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "API_PORT": "0",
        "DATASETS": f"users,{SMALL}",
        "EXPORT_STORAGE_PATH": str(folder),
        "EXPORT_METHOD": cursor,
    }
    process = await asyncio.create_subprocess_exec(
        STREAMER, "serve", env=environment, stderr=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stderr is not None
    async for line in process.stderr:
        if b"serving on " in line:
            break
    drain = asyncio.create_task(process.stderr.read())
    try:
        yield line.split()[-1].decode(), process.pid
    finally:
        process.terminate()
        await process.wait()
        await drain


def psql_copy(database_url: str, path: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        [PSQL, "-q", database_url, "-c", f"\\copy users to '{path}' csv header"], check=True, stdin=subprocess.DEVNULL
    )
    return time.perf_counter() - start


async def export_to_spool(session: aiohttp.ClientSession, url: str, query: str = "") -> float:
    """From the POST until the status says completed."""
    start = time.perf_counter()
    async with session.post(f"{url}/exports/csv{query}") as response:
        export_id = (await response.json())["exportId"]
    while True:
        async with session.get(f"{url}/exports/{export_id}/status") as response:
            if (await response.json())["status"] == "completed":
                break
        await asyncio.sleep(POLL)
    elapsed = time.perf_counter() - start
    await session.delete(f"{url}/exports/{export_id}")
    return elapsed


async def live_download(session: aiohttp.ClientSession, url: str, dataset: str) -> tuple[float, float]:
    """From the POST to the first byte of the live body, and to the last."""
    start = time.perf_counter()
    async with session.post(f"{url}/exports/csv?dataset={dataset}") as response:
        export_id = (await response.json())["exportId"]
    async with session.get(f"{url}/exports/{export_id}/download") as response:
        await response.content.readany()
        first = time.perf_counter() - start
        async for _ in response.content.iter_any():
            pass
    last = time.perf_counter() - start
    await session.delete(f"{url}/exports/{export_id}")
    return first, last


def curl_live_download(url: str) -> float:
    """The same with two curl processes, so that the client's Python does not count."""
    start = time.perf_counter()
    export_id = (
        subprocess.run(
            ["curl", "-fsS", "-X", "POST", "-o", "/dev/null", "-w", "%header{location}", f"{url}/exports/csv"],
            check=True,
            capture_output=True,
            text=True,
        )
        .stdout.removesuffix("/status")
        .rpartition("/")[2]
    )
    subprocess.run(["curl", "-fsS", "-o", "/dev/null", f"{url}/exports/{export_id}/download"], check=True)
    elapsed = time.perf_counter() - start
    subprocess.run(["curl", "-fsS", "-X", "DELETE", f"{url}/exports/{export_id}"], check=True)
    return elapsed


def peak_rss(pid: int) -> float:
    """In megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def cpu_seconds(pid: int) -> float:
    user, system = map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


async def main(rows: int, runs: int) -> None:
    figures = Figures()
    async with AsyncExitStack() as stack:
        database_url = stack.enter_context(database())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "spool")))
        await seed(database_url, rows)
        url, pid = await stack.enter_async_context(server(database_url, scratch / "auto"))
        copy_url, _ = await stack.enter_async_context(server(database_url, scratch / "copy", "copy"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for run in range(runs + 1):
            measured = [(PEER, psql_copy(database_url, scratch / "peer"))]
            before = cpu_seconds(pid)
            measured += [
                ("export to spool", await export_to_spool(session, url)),
                ("of which CPU of the server", cpu_seconds(pid) - before),
                ("export to spool by COPY", await export_to_spool(session, copy_url)),
                ("live download, to the last byte", await asyncio.to_thread(curl_live_download, url)),
                ("first byte, all rows", (await live_download(session, url, "users"))[0]),
                (f"first byte, {SMALL_ROWS} rows", (await live_download(session, url, SMALL))[0]),
            ]
            for name, query in FILTERS.items():
                measured += [
                    (f"{name}, by COPY", await export_to_spool(session, copy_url, query)),
                    (name, await export_to_spool(session, url, query)),
                ]
            if run:  # the first one warms up
                for name, seconds in measured:
                    figures.add(name, seconds)
        print(f"{rows} rows, medians of {runs} runs")
        for name in figures.seconds:
            print(figures.line(name, PEERS.get(name)))
        print(f"peak RSS of the server: {peak_rss(pid):.1f} MB")


PEER = "psql \\copy to a file"
PEERS = {
    **dict.fromkeys(("export to spool", "export to spool by COPY", "live download, to the last byte"), PEER),
    **{name: f"{name}, by COPY" for name in FILTERS},
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows, arguments.runs))
