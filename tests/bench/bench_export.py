"""Export and live download against `psql \\copy`, and the choice of cursor against plain COPY, side by side.

    python -m tests.bench.bench_export [--rows 10000000] [--runs 5] [--busy 2] [--only-cpu]

Each run takes the peer and ours in turn, so that a machine whose speed drifts drifts for both; what is printed are
medians and the ratio of the medians. The servers are real processes: one as it comes, one with EXPORT_METHOD=copy, and
one that reaches the database by TCP. A table is read by ranges of its blocks, a view by one COPY. CPU seconds are those
of the server's process and of psql's; they depend less on the load of the machine than the time on the clock does. What
one GB costs comes by step, with PostgreSQL if it runs on this machine. With `--busy` so many processes that only
compute run beside, and with `--only-cpu` the downloads and the filters are left out.

The database is the embedded one, kept in .streamer/bench for the next time, or that of DATABASE_URL, where the tables
are made once; that is measured as it is reached.
"""

import argparse
import asyncio
import os
import pwd
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import aiohttp
import asyncpg

from streamer.embedded import embedded_postgres
from tests.bench.costs import PSQL_CLIENT, Costs, find_postmaster
from tests.bench.cpu import NAMED_THREADS, process_cpu, server_steps
from tests.ports import free_port
from tests.programs import PSQL

ROOT = Path(__file__).parents[2]
POLL = 0.2  # seconds between two looks at a status, each of which costs the server a millisecond of CPU
SMALL_ROWS = 10_000
FILTERS = {
    "1/7 of the rows": "?country_code=US",
    "0.1 % of the rows": "?lifetime_value__gte=9990",
}
SMALL = "users_small"
VIEW = "users_view"
SOCKET, TCP = "socket", "TCP"


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
        return f"{name:<42}{self.median(name):9.4f} s   ({runs[0]:.4f} .. {runs[-1]:.4f}){ratio}"


@contextmanager
def database() -> Iterator[str]:
    """The URL of the database."""
    with ways_to_database() as urls:
        yield next(iter(urls.values()))


@contextmanager
def ways_to_database() -> Iterator[dict[str, str]]:
    """The URLs of the database, by the way to it."""
    if url := os.environ.get("DATABASE_URL"):
        yield {"DATABASE_URL": url}
        return
    folder = ROOT / ".streamer" / "bench"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with embedded_postgres(folder):
            """It makes the files, and would not listen to TCP."""
    port = free_port()
    start_postgres(folder, port)
    with embedded_postgres(folder):  # finds it running, and stops it
        yield {
            SOCKET: f"postgresql://postgres@/postgres?host={folder}&port={port}",
            TCP: f"postgresql://postgres@127.0.0.1:{port}/postgres",
        }


def start_postgres(folder: Path, port: int) -> None:
    """Starts the server of these files, as their owner, with TCP."""
    options = f"-h 127.0.0.1 -p {port} -k {folder}"
    owner = pwd.getpwuid(folder.stat().st_uid).pw_name
    subprocess.run(
        [PSQL.with_name("pg_ctl"), "-w", "-s", "-D", folder, "-l", folder / "log", "-o", options, "start"],
        check=True,
        user=owner if os.geteuid() == 0 else None,
    )


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Runs processes that only compute."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


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
        await connection.execute(f"CREATE OR REPLACE VIEW {VIEW} AS SELECT * FROM users")
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


@asynccontextmanager
async def server(
    database_url: str, folder: Path, cursor: str = "auto", **settings: str
) -> AsyncIterator[tuple[str, int]]:
    """The real process, with names for its threads: its URL and its process id."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "API_PORT": "0",
        "DATASETS": f"users,{VIEW},{SMALL}",
        "EXPORT_STORAGE_PATH": str(folder),
        "EXPORT_METHOD": cursor,
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *NAMED_THREADS, "serve", env=environment, stderr=asyncio.subprocess.PIPE, limit=1 << 20
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


def psql_copy(database_url: str, path: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds of the client."""
    start, before = time.perf_counter(), children_cpu()
    subprocess.run(
        [PSQL, "-q", database_url, "-c", f"\\copy users to '{path}' csv header"], check=True, stdin=subprocess.DEVNULL
    )
    return time.perf_counter() - start, children_cpu() - before


def children_cpu() -> float:
    """CPU seconds of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def export_to_spool(session: aiohttp.ClientSession, url: str, query: str = "") -> float:
    """From the creation of the export to its completion, in seconds of the server's clock."""
    async with session.post(f"{url}/exports/csv{query}") as response:
        export_id = (await response.json())["exportId"]
    while True:
        async with session.get(f"{url}/exports/{export_id}/status") as response:
            status = await response.json()
        if status["status"] == "completed":
            break
        await asyncio.sleep(POLL)
    await session.delete(f"{url}/exports/{export_id}")
    created, completed = (datetime.fromisoformat(status[moment]) for moment in ("createdAt", "completedAt"))
    return (completed - created).total_seconds()


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


@dataclass(frozen=True)
class Server:
    """A server, and the same database for psql."""

    way: str  # to the database
    database_url: str
    url: str
    pid: int


async def cpu_figures(
    session: aiohttp.ClientSession, server: Server, scratch: Path, costs: Costs
) -> list[tuple[str, float]]:
    """An export of the table and one of the view, each with the CPU of the server, beside psql."""
    file = scratch / "peer"
    size = file.stat().st_size if file.exists() else 1  # the first run warms up
    with costs.measuring(peer(server.way), size, lambda: {PSQL_CLIENT: children_cpu()}):
        elapsed, cpu = await asyncio.to_thread(psql_copy, server.database_url, file)
    figures = [(peer(server.way), elapsed), (peer_cpu(server.way), cpu)]
    for name, query in EXPORTS.items():
        before = process_cpu(server.pid)
        with costs.measuring(f"export of {name}, {server.way}", size, lambda: server_steps(server.pid)):
            elapsed = await export_to_spool(session, server.url, query)
        figures.append((f"export of {name}, {server.way}", elapsed))
        figures.append((f"  CPU of the server for {name}, {server.way}", process_cpu(server.pid) - before))
    return figures


async def other_figures(session: aiohttp.ClientSession, url: str, copy_url: str) -> list[tuple[str, float]]:
    figures = [
        ("export to spool by COPY", await export_to_spool(session, copy_url)),
        ("live download, to the last byte", await asyncio.to_thread(curl_live_download, url)),
        ("first byte, all rows", (await live_download(session, url, "users"))[0]),
        (f"first byte, {SMALL_ROWS} rows", (await live_download(session, url, SMALL))[0]),
    ]
    for name, query in FILTERS.items():
        figures.append((f"{name}, by COPY", await export_to_spool(session, copy_url, query)))
        figures.append((name, await export_to_spool(session, url, query)))
    return figures


async def main(arguments: argparse.Namespace) -> None:
    figures = Figures()
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(ways_to_database())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "spool")))
        first, *_ = urls.values()
        await seed(first, arguments.rows)
        costs = Costs(await find_postmaster(first))
        servers = [
            Server(way, url, *await stack.enter_async_context(server(url, scratch / way))) for way, url in urls.items()
        ]
        copy_url, _ = await stack.enter_async_context(server(first, scratch / "copy", "copy"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stack.enter_context(busy_loops(arguments.busy))
        for run in range(arguments.runs + 1):
            measured = [pair for each in servers for pair in await cpu_figures(session, each, scratch, costs)]
            if not arguments.only_cpu:
                measured += await other_figures(session, servers[0].url, copy_url)
            if run == 0:  # it warms up
                costs.drop()
                continue
            for name, seconds in measured:
                figures.add(name, seconds)
        print(f"{arguments.rows} rows, medians of {arguments.runs} runs, beside {arguments.busy} busy loops")
        for name in figures.seconds:
            print(figures.line(name, peers(servers).get(name)))
        print(costs)
        print(f"peak RSS of the server: {peak_rss(servers[0].pid):.1f} MB")


def peer(way: str) -> str:
    return f"psql \\copy to a file, {way}"


def peer_cpu(way: str) -> str:
    return f"  CPU of psql, {way}"


def peers(servers: list[Server]) -> dict[str, str]:
    """What each figure is compared with."""
    found = {name: f"{name}, by COPY" for name in FILTERS}
    for name in ("export to spool by COPY", "live download, to the last byte"):
        found[name] = peer(servers[0].way)
    for each in servers:
        for name in EXPORTS:
            found[f"export of {name}, {each.way}"] = peer(each.way)
            found[f"  CPU of the server for {name}, {each.way}"] = peer_cpu(each.way)
    return found


EXPORTS = {"a table": "?dataset=users", "a view": f"?dataset={VIEW}"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--only-cpu", action="store_true")
    asyncio.run(main(parser.parse_args()))
