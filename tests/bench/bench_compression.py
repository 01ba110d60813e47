"""The coders against igzip and zstd, on the same rows, side by side.

    python -m tests.bench.bench_compression [--rows 1000000] [--runs 5]

Ours are compressed in cuts, as representations are made; the peers are the programs `igzip -1` and `zstd -1`, which
read the same file, in one thread. Each round takes all of them in turn, so that a machine whose speed drifts drifts for
all. CPU seconds are less sensitive to other work on the machine than MB/s; those of a peer include its start. Medians,
with the least and the most. A peer that is missing is named.

Programs: igzip (the package isal) and zstd.
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamer.coding import COMPRESSED, Coding
from streamer.formats.coders import coder, coder_name
from streamer.formats.compression import CUT, Compression
from tests import seeds
from tests.bench.bench_download import installed

PEERS = {Coding.GZIP: ("igzip", "-1", "-c"), Coding.ZSTD: ("zstd", "-1", "-q", "-c", "--single-thread")}


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu: float  # seconds
    size: int  # bytes


def ours(coding: Coding, content: bytes) -> Run:
    view, size = memoryview(content), 0
    begun, cpu = time.perf_counter(), time.process_time()
    compression = Compression(coder(coding))
    while cut := compression.next_cut(len(content), ended=True, flush=False):
        size += len(compression.take(view[compression.position : cut.stop], cut))
    size += len(compression.end())
    return Run(time.perf_counter() - begun, time.process_time() - cpu, size)


def peer(command: tuple[str, ...], path: Path) -> Run:
    with tempfile.TemporaryFile() as compressed:
        begun, cpu = time.perf_counter(), cpu_of_children()
        subprocess.run([*command, path], check=True, stdout=compressed)
        seconds = time.perf_counter() - begun
        return Run(seconds, cpu_of_children() - cpu, compressed.seek(0, os.SEEK_END))


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_turn(measures: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """The runs by name. A round before the first one warms up."""
    runs: dict[str, list[Run]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            run = measure()
            if number:
                runs[name].append(run)
    return runs


def show(runs: Mapping[str, list[Run]], length: int) -> None:
    print(f"{'':<44}{'MB/s':>6}  {'CPU seconds':<24}{'ratio':>6}")
    for name, each in runs.items():
        seconds = statistics.median(run.seconds for run in each)
        cpu = sorted(run.cpu for run in each)
        spread = f"{statistics.median(cpu):.3f} ({cpu[0]:.3f} .. {cpu[-1]:.3f})"
        print(f"{name:<44}{length / seconds / 1e6:>6.0f}  {spread:<24}{each[0].size / length:>6.4f}")


def main(rows: int, rounds: int) -> None:
    content = b"".join(seeds.csv_bytes(seeds.rows(rows)))
    measures: dict[str, Callable[[], Run]] = {
        coder_name(coding): partial(ours, coding, content) for coding in COMPRESSED
    }
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        for command in PEERS.values():
            if installed(command[0]):
                measures[" ".join(command)] = partial(peer, command, Path(file.name))
        load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
        print(f"{rows} rows, {len(content)} bytes, cuts of {CUT}, medians of {rounds}")
        print(f"{os.cpu_count()} cores, load before: {load}")
        show(in_turn(measures, rounds), len(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.rows, arguments.runs)
