"""Downloads of a sealed export against nginx and igzip, on the same file, side by side.

    python -m tests.bench.bench_download [--rows 10000000]

Each round takes ours and its peers in turn, so that a machine whose speed drifts drifts for all; what is printed are
medians, the least and the most, and how many times as fast as the peer ours is. The server is the real process, with
its real settings, its log included; nginx has sendfile, one worker and no log. A peer that is missing is named.

Programs: curl, and the peers nginx, igzip (the package isal) and wrk.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.bench.bench_export import ROOT, database, peak_rss, seed, server
from tests.ports import free_port

IDENTITY_RUNS = 15
GZIP_RUNS = 5
RANGE_RUNS = 3
RANGE = 64 * 1024  # bytes
RANGE_CONNECTIONS = 16
RANGE_SECONDS = 5
PATIENCE = 10.0  # seconds for nginx to listen

NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    default_type text/csv;
    types {{ }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /identity/ {{ alias {spool}/; }}
        location /gzip/ {{ alias {spool}/; gzip on; gzip_comp_level 1; gzip_types text/csv; }}
    }}
}}
"""

# The same ranges for every run: the seed is fixed.
RANGES = f"""
local length

function init(args)
    length = tonumber(args[1])
    math.randomseed(20260207)
end

function request()
    local first = math.random(0, length - {RANGE})
    return wrk.format("GET", nil, {{ ["Range"] = "bytes=" .. first .. "-" .. (first + {RANGE} - 1) }})
end

function done(summary)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("%d %d %d %d\\n", summary.requests, summary.duration, summary.bytes, failed))
end
"""

Measure = Callable[[], float]


@dataclass(frozen=True)
class Sealed:
    """The export that is downloaded, by its URL, and its file, for the peers."""

    url: str
    path: Path

    @property
    def server(self) -> str:
        return self.url.partition("/exports/")[0]

    @property
    def length(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True)
class Download:
    seconds: float
    size: int  # bytes on the wire


def curl(url: str, *, gzip: bool = False) -> Download:
    """A download to /dev/null, with curl's own clock."""
    asked = ("-H", "Accept-Encoding: gzip") if gzip else ()
    said = subprocess.run(
        ["curl", "-qfsS", "--noproxy", "*", *asked, "-o", "/dev/null", "-w", "%{time_total} %{size_download}", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return Download(float(said[0]), int(said[1]))


def igzip(path: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["igzip", "-1", "-c", path], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def igzip_size(path: Path) -> int:
    with tempfile.TemporaryFile() as compressed:
        subprocess.run(["igzip", "-1", "-c", path], check=True, stdout=compressed)
        return compressed.seek(0, os.SEEK_END)


def ranges_per_second(url: str, length: int, script: Path) -> float:
    said = subprocess.run(
        [
            *("wrk", "-t", "1", "-c", str(RANGE_CONNECTIONS), "-d", f"{RANGE_SECONDS}s", "-s", script),
            *(url, "--", str(length)),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    requests, microseconds, size, failed = map(int, said.splitlines()[-1].split())
    if failed or not RANGE <= size / requests < 1.1 * RANGE:  # a whole answer to a range would be more
        raise RuntimeError(f"not every range was answered:\n{said}")
    return requests / microseconds * 1e6


@contextmanager
def nginx(spool: Path, configured: str = NGINX) -> Iterator[str | None]:
    """Its URL; None where it is not installed."""
    if shutil.which("nginx") is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = folder / "nginx.conf"
        configuration.write_text(configured.format(user=user, folder=folder, port=port, spool=spool))
        process = subprocess.Popen(["nginx", "-p", folder, "-e", folder / "error.log", "-c", configuration])
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def in_turn(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """The figures by name. A round before the first one warms up."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            figure = measure()
            if number:
                figures[name].append(figure)
    return figures


def show(
    title: str, unit: str, figures: Mapping[str, Sequence[float]], *, faster: Callable[[float, float], float]
) -> None:
    """`faster` says how many times as fast the first figure is as the second. The first name is ours."""
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ours = next(iter(figures))
    form = ",.4f" if unit == "s" else ",.0f"
    print(f"\n{title}, medians of {len(figures[ours])}")
    for name, values in figures.items():
        spread = f"({min(values):{form}} .. {max(values):{form}})"
        ratio = "" if name == ours else f"ours is {faster(medians[ours], medians[name]):.2f} x as fast"
        print(f"  {name:<26}{medians[name]:>12{form}} {unit:<3}{spread:<28}{ratio}".rstrip())


def by_time(ours: float, peer: float) -> float:
    return peer / ours


def by_rate(ours: float, peer: float) -> float:
    return ours / peer


def compare_identity(sealed: Sealed, peer: str | None) -> None:
    measures: dict[str, Measure] = {"ours": lambda: curl(sealed.url).seconds}
    if peer:
        measures["nginx, sendfile"] = lambda: curl(f"{peer}/identity/{sealed.path.name}").seconds
    show("identity download by curl", "s", in_turn(measures, IDENTITY_RUNS), faster=by_time)


def first_gzip(server: str) -> float:
    """The first compressed download of another completed export, which makes its compressed file. In seconds."""
    with urllib.request.urlopen(urllib.request.Request(f"{server}/exports/csv", method="POST")) as answer:
        url = server + json.load(answer)["links"]["download"]
    curl(url)
    seconds = curl(url, gzip=True).seconds
    with urllib.request.urlopen(urllib.request.Request(url.removesuffix("/download"), method="DELETE")):
        return seconds


def compare_gzip(sealed: Sealed, peer: str | None) -> None:
    measures: dict[str, Measure] = {
        "ours, first download": lambda: first_gzip(sealed.server),
        "ours, further ones": lambda: curl(sealed.url, gzip=True).seconds,
    }
    sizes = {"ours": curl(sealed.url, gzip=True).size}
    if peer:
        url = f"{peer}/gzip/{sealed.path.name}"
        measures["nginx, gzip_comp_level 1"] = lambda: curl(url, gzip=True).seconds
        sizes["nginx, gzip_comp_level 1"] = curl(url, gzip=True).size
    if installed("igzip"):
        measures["igzip -1 > /dev/null"] = lambda: igzip(sealed.path)
        sizes["igzip -1 > /dev/null"] = igzip_size(sealed.path)
    show("gzip download by curl", "s", in_turn(measures, GZIP_RUNS), faster=by_time)
    for name, size in sizes.items():
        print(f"  {name:<26}{size:>12,} bytes, {size / sealed.length:.3f} of the export")


def compare_ranges(sealed: Sealed, peer: str | None, script: Path) -> None:
    if not installed("wrk"):
        return
    script.write_text(RANGES)
    measures: dict[str, Measure] = {"ours": lambda: ranges_per_second(sealed.url, sealed.length, script)}
    if peer:
        url = f"{peer}/identity/{sealed.path.name}"
        measures["nginx, sendfile"] = lambda: ranges_per_second(url, sealed.length, script)
    title = f"ranges of {RANGE} bytes by wrk, {RANGE_CONNECTIONS} connections, {RANGE_SECONDS} s"
    show(title, "/s", in_turn(measures, RANGE_RUNS), faster=by_rate)


def installed(program: str) -> bool:
    present = shutil.which(program) is not None
    if not present:
        print(f"\n{program} is not installed: not compared with it")
    return present


def compare(sealed: Sealed, scratch: Path) -> None:
    with nginx(sealed.path.parent) as peer:
        installed("nginx")
        compare_identity(sealed, peer)
        compare_gzip(sealed, peer)
        compare_ranges(sealed, peer, scratch / "ranges.lua")


async def export(session: aiohttp.ClientSession, url: str, spool: Path) -> Sealed:
    async with session.post(f"{url}/exports/csv") as response:
        links = (await response.json())["links"]
    async with session.get(url + links["download"]) as response:
        async for _ in response.content.iter_any():
            pass
    return Sealed(url + links["download"], spool / f"{links['download'].split('/')[2]}.csv")


async def main(rows: int) -> None:
    with database() as database_url, tempfile.TemporaryDirectory(dir=ROOT / "spool") as name:
        scratch = Path(name)
        spool = scratch / "spool"
        await seed(database_url, rows)
        async with server(database_url, spool) as (url, pid), aiohttp.ClientSession() as session:
            sealed = await export(session, url, spool)
            load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
            print(f"{rows} rows, {sealed.length} bytes, {os.cpu_count()} cores, load before: {load}")
            await asyncio.to_thread(compare, sealed, scratch)
            print(f"\npeak RSS of the server: {peak_rss(pid):.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows))
