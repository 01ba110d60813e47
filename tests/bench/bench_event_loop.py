"""What one event loop carries: exports from a PostgreSQL whose COPY costs next to nothing, see replay.py.

    python -m tests.bench.bench_event_loop [--runs 3] [--rows 2000000] [--rate MB --connections 2 4 8]

One export alone, and three at once, each read by COPY and by ranges of blocks: GB a second over all of them, and CPU
seconds for each GB by step. Files are written to memory (/dev/shm), so the disk does not count. With
`--rate` each connection delivers at most so many MB a second, and one export is read by `--connections` at a time: what
more connections bring where the database is what limits an export.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg

from tests.bench.bench_export import seed, server, ways_to_database
from tests.bench.cpu import STEPS, process_cpu, server_steps
from tests.exporting import create

MEMORY = Path("/dev/shm")
GB = 1e9


@dataclass(frozen=True)
class Carried:
    """What exports that ran at once have delivered: bytes, seconds, and CPU seconds of the server by step."""

    bytes: int
    seconds: float
    steps: dict[str, float]
    replay: float  # CPU seconds of the database that replays

    @property
    def rate(self) -> float:
        """GB a second."""
        return self.bytes / GB / self.seconds

    def per_gb(self, step: str) -> float:
        return self.steps[step] / (self.bytes / GB)


@contextmanager
def replaying(url: str, folder: Path, *, blocks: int, rate: float | None) -> Iterator[tuple[str, int]]:
    """The URL of the database through the process that replays, and the id of that."""
    parts = urlsplit(url)
    address = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.{parse_qs(parts.query)['port'][0]}"
    command = [sys.executable, "-m", "tests.bench.replay", address, f"{folder}/.s.PGSQL.5432", f"--blocks={blocks}"]
    with subprocess.Popen(command + ([f"--rate={rate}"] if rate else []), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield f"postgresql://postgres@/postgres?host={folder}", process.pid
        finally:
            process.kill()


async def carried(session: aiohttp.ClientSession, url: str, pid: int, replay: int, count: int) -> Carried:
    """Runs so many exports at once."""
    steps, of_replay = server_steps(pid), process_cpu(replay)
    exports = await asyncio.gather(*(create(session, url, dataset="users") for _ in range(count)))
    ended = [await export.until("completed", within=600) for export in exports]
    used = {step: seconds - steps[step] for step, seconds in server_steps(pid).items()}
    moments = [[datetime.fromisoformat(status[name]) for status in ended] for name in ("createdAt", "completedAt")]
    for export in exports:
        await export.delete()
    return Carried(
        sum(status["progress"]["bytes"] for status in ended),
        (max(moments[1]) - min(moments[0])).total_seconds(),
        used,
        process_cpu(replay) - of_replay,
    )


def line(name: str, runs: list[Carried]) -> str:
    rates = sorted(run.rate for run in runs)
    steps = "".join(f"{statistics.median(run.per_gb(step) for run in runs):8.2f}" for step in STEPS)
    total = statistics.median(sum(run.steps.values()) / (run.bytes / GB) for run in runs)
    replay = statistics.median(run.replay / (run.bytes / GB) for run in runs)
    return (
        f"{name:<32}{statistics.median(rates):6.2f} GB/s ({rates[0]:.2f} .. {rates[-1]:.2f}){steps}{total:8.2f}"
        f"{replay:8.2f}"
    )


def heading() -> str:
    names = ("receive", "frame", "digest", "write", "rest", "server", "replay")
    return f"{'CPU seconds for each GB':<60}" + "".join(f"{name:>8}" for name in names)


async def main(arguments: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        url = next(iter(stack.enter_context(ways_to_database()).values()))
        await seed(url, arguments.rows)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        replayed, replay = stack.enter_context(
            replaying(url, folder, blocks=await blocks_of_users(url), rate=arguments.rate)
        )
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
        print(heading())
        for method in ("copy", "blocks"):
            for connections in arguments.connections if method == "blocks" else (1,):
                settings = {"EXPORT_CONNECTIONS": str(connections)}
                async with server(replayed, folder / "spool", method, **settings) as (server_url, pid):
                    for count in (1, 3):
                        runs = [
                            await carried(session, server_url, pid, replay, count) for _ in range(arguments.runs + 1)
                        ]
                        name = f"{count} by {method}, {connections} connections each"
                        print(line(name, runs[1:]), flush=True)  # the first one warms up
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")


async def blocks_of_users(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        blocks: int = await connection.fetchval("SELECT pg_relation_size('users') / current_setting('block_size')::int")
        return blocks
    finally:
        await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--connections", type=int, nargs="+", default=[2])
    asyncio.run(main(parser.parse_args()))
