"""Many followers: throughput against nginx, and what each of them costs.

    python -m tests.bench.bench_followers [--runs 5] [--live 1 200 1000] [--rows 200000]

Throughput is that of 1,000 connections that download one sealed export of some 64 MB as fast as they can, by wrk, from
ours and from nginx with sendfile in turn; medians, with the least and the most. CPU is that of the server process, user
and system: for each GB of those downloads, and for each follower of an export that is live, at 1 to 1,000 followers.
With `--live` only the latter is measured, at so many followers; `--rows` is the size of the export that is live.
The database is the benchmarks' own, as it is left by the last of them; its users must be at least 740,000.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp

from tests.bench import bench_download
from tests.bench.bench_export import ROOT, database
from tests.conftest import new_database
from tests.exporting import RemoteExport, create
from tests.memory.clients import compare, crowd
from tests.memory.confined import Confined, confined
from tests.memory.crowd import Order

ROWS = 740_000  # 63 MB
LIVE_ROWS = 200_000  # 16 MB
CONNECTIONS = (1, 16, 200, 1000)
FOLLOWERS = (1, 10, 100, 1000)  # the last ones of one run may still be leaving when the next begins
SECONDS = 6
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}
# The template has room for fewer connections than are made here.
NGINX = bench_download.NGINX.replace("worker_connections 256", "worker_connections 4096")


def read_by_wrk(url: str, connections: int) -> tuple[float, float]:
    """GB, and GB a second."""
    said = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "60s", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"requests in ([\d.]+)s, ([\d.]+)([KMG]B) read", said)
    if not found or "Socket errors" in said or "Non-2xx" in said:
        raise RuntimeError(f"not every download was answered:\n{said}")
    size = float(found[2]) * UNITS[found[3]] / 1e9
    return size, size / float(found[1])


def compare_throughput(server: Confined, export: RemoteExport, peer: str | None, runs: int) -> None:
    print("\nall followers of a sealed export together, GB a second")
    for connections in CONNECTIONS:
        ours, theirs, costs = list[float](), list[float](), list[float]()
        for _ in range(runs):
            before = server.cpu()
            size, rate = read_by_wrk(export.download, connections)
            ours.append(rate)
            costs.append((server.cpu() - before) / size)
            if peer:
                theirs.append(read_by_wrk(f"{peer}/identity/{export.file_name}", connections)[1])
        line = f"{connections:5} connections: ours {spread(ours)}, {statistics.median(costs):.3f} s of CPU for a GB"
        ratio = f"; nginx {spread(theirs)}: {statistics.median(ours) / statistics.median(theirs):.2f} x" if peer else ""
        print(line + ratio)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


class Live(NamedTuple):
    """`cost` in seconds of the server's CPU, `size` in GB that went out, `seconds` from POST to the last one's end."""

    cost: float
    size: float
    seconds: float


async def follow_live(server: Confined, session: aiohttp.ClientSession, followers: int, rows: int) -> Live:
    """An export that so many follow while it is written."""
    before, begun = server.cpu(), time.perf_counter()
    export = await create(session, server.url, id__lte=str(rows))
    found = []
    if followers:
        async with crowd(server, [Order(path=export.path) for _ in range(followers)]) as running:
            found = await running.ended()
    await export.until("completed")
    cost, seconds = server.cpu() - before, time.perf_counter() - begun
    if found:
        compare(server.spool / export.file_name, found)
    await export.delete()
    return Live(cost, sum(one.size for one in found) / 1e9, seconds)


async def compare_costs(
    server: Confined, session: aiohttp.ClientSession, runs: int, crowds: Sequence[int], rows: int
) -> None:
    alone = statistics.median([(await follow_live(server, session, 0, rows)).cost for _ in range(runs)])
    print(f"\nCPU of the server for a live export of {rows:,} rows: {alone:.3f} s without followers")
    for followers in crowds:
        found = [await follow_live(server, session, followers, rows) for _ in range(runs)]
        more = statistics.median(live.cost for live in found) - alone
        rate = spread([live.size / live.seconds for live in found])
        print(
            f"{followers:5} followers: {more:8.3f} s more, {1000 * more / followers:7.2f} ms each, "
            f"{more / found[0].size:.3f} s for a GB; {rate} GB a second in all"
        )


async def main(runs: int, live: Sequence[int] | None, rows: int) -> None:
    with database() as url, tempfile.TemporaryDirectory(dir=ROOT / "spool") as name:
        spool = Path(name)
        async with (
            new_database(url) as store,
            confined(spool, store, url, MAX_DOWNLOADS=str(2 * max(FOLLOWERS))) as server,
            aiohttp.ClientSession() as session,
        ):
            print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.2f}")
            if live is None:
                export = await create(session, server.url, id__lte=str(ROWS))
                await export.until("completed")
                with bench_download.nginx(spool, NGINX) as peer:
                    await asyncio.to_thread(compare_throughput, server, export, peer, runs)
            await compare_costs(server, session, runs, live or FOLLOWERS, rows)
            print(f"\nload after: {os.getloadavg()[0]:.2f}; {server.used().rss / 1e6:.1f} MB at the most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--live", type=int, nargs="+", metavar="FOLLOWERS")
    parser.add_argument("--rows", type=int, default=LIVE_ROWS)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.runs, arguments.live, arguments.rows))
