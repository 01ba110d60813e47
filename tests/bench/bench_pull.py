"""`streamer pull` of a sealed export against `curl -o`, and against what a careful user of curl does, side by side.

    python -m tests.bench.bench_pull [--rows 10000000] [--runs 7]

Each round takes all of them in turn; what is printed are medians, the least and the most, how many times as fast as
curl they are, and the CPU seconds, which other work on the machine changes less. A pull is the whole process, start and
verification included: it hashes every byte and syncs the file, which `curl -o` does not. So there is a second peer,
which does: `curl -o`, then `sha256sum`, then `sync`. The compressed file is made in the first round. The server is the
real process; the file goes to the disk on which this checkout is, or to --folder.

Programs: curl, sha256sum, sync.
"""

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import aiohttp

from tests.acceptance.process import STREAMER
from tests.bench.bench_download import Sealed, export, in_turn
from tests.bench.bench_export import ROOT, database, peak_rss, seed, server

CURL = "curl -o"
CAREFUL = "curl -o, sha256sum, sync"
PULL = "streamer pull"
PIECES = "streamer pull --connections 4"
GZIP = "streamer pull --gzip"
COMPRESSED = "streamer pull --compressed"
SAMPLE = 0.02  # seconds between two looks at a process's memory


@dataclass
class Costs:
    """What each has taken: the most memory of a run, in megabytes, and the CPU seconds of all runs."""

    rss: dict[str, float]
    cpu: dict[str, list[float]]

    def watch(self, name: str, pid: int) -> None:
        """In a thread: what the kernel tells when a process has ended, it also tells of the one that started it."""
        with suppress(OSError, StopIteration):
            while True:
                time.sleep(SAMPLE)
                self.rss[name] = max(peak_rss(pid), self.rss.get(name, 0.0))


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(name: str, costs: Costs, target: Path, *commands: Sequence[str | Path]) -> Callable[[], float]:
    """How long the commands take, one after the other, to make the file; it is removed again."""

    def measure() -> float:
        target.unlink(missing_ok=True)
        before = cpu_of_children()
        start = time.perf_counter()
        for command in commands:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            Thread(target=costs.watch, args=(name, process.pid), daemon=True).start()
            if process.wait():
                raise RuntimeError(f"{command} ended with {process.returncode}")
        seconds = time.perf_counter() - start
        costs.cpu.setdefault(name, []).append(cpu_of_children() - before)
        return seconds

    return measure


def show(figures: Mapping[str, Sequence[float]], costs: Costs) -> None:
    peer = statistics.median(figures[CURL])
    for name, values in figures.items():
        median = statistics.median(values)
        spread = f"({min(values):.3f} .. {max(values):.3f})"
        cost = f"{statistics.median(costs.cpu[name]):5.2f} s CPU {costs.rss[name]:5.1f} MB"
        print(f"  {name:<32}{median:7.3f} s {spread:<19}{peer / median:5.2f} x curl -o {cost}")


def compare(sealed: Sealed, folder: Path, runs: int) -> None:
    costs = Costs({}, {})
    target = folder / "pulled.csv"
    curl = "curl", "-qfsS", "--noproxy", "*", "-o", target, sealed.url
    pull = STREAMER, "pull", sealed.url, "-o", target
    measures = {
        CURL: timed(CURL, costs, target, curl),
        PULL: timed(PULL, costs, target, pull),
        CAREFUL: timed(CAREFUL, costs, target, curl, ("sha256sum", target), ("sync", target)),
        PIECES: timed(PIECES, costs, target, (*pull, "--connections", "4")),
        GZIP: timed(GZIP, costs, target, (*pull, "--gzip")),
        COMPRESSED: timed(COMPRESSED, costs, target, (*pull, "--compressed")),
    }
    print(f"medians of {runs}, and the peak RSS")
    show(in_turn(measures, runs), costs)


async def main(rows: int, runs: int, folder: Path | None) -> None:
    with database() as database_url, tempfile.TemporaryDirectory(dir=ROOT / "spool") as name:
        scratch = Path(name)
        await seed(database_url, rows)
        async with server(database_url, scratch / "spool") as (url, _), aiohttp.ClientSession() as session:
            sealed = await export(session, url, scratch / "spool")
            load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
            print(f"{rows} rows, {sealed.length} bytes, {os.cpu_count()} cores, load before: {load}")
            await asyncio.to_thread(compare, sealed, folder or scratch, runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows, arguments.runs, arguments.folder))
