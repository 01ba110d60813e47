"""What one GB of CSV costs: CPU seconds of PostgreSQL, of psql and of the server by step, measured in the same run."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import asyncpg
import psutil  # type: ignore[import-untyped] # its types are a package of their own, which nothing else needs

from tests.bench.cpu import STEPS, family_cpu

POSTGRES, PSQL_CLIENT, SERVER = "PostgreSQL", "psql client", "server"
GB = 1e9


async def find_postmaster(url: str) -> int | None:
    """The process of a PostgreSQL server; None if it is not on this machine."""
    connection = await asyncpg.connect(url)
    try:
        backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        return backend.ppid() if backend.name() == "postgres" else None
    except psutil.NoSuchProcess:
        return None
    finally:
        await connection.close()


class Costs:
    """The CPU seconds of each step for each GB, of every run of each export."""

    def __init__(self, postmaster: int | None) -> None:
        self._postmaster = postmaster
        self._runs: dict[str, list[Mapping[str, float]]] = {}

    @contextmanager
    def measuring(self, name: str, size: int, steps: Callable[[], Mapping[str, float]]) -> Iterator[None]:
        """Measures an export of `size` bytes that runs in the context; `steps` are seconds used so far."""
        before = self._now(steps)
        yield
        used = {step: (seconds - before[step]) * GB / size for step, seconds in self._now(steps).items()}
        self._runs.setdefault(name, []).append(used)

    def drop(self) -> None:
        """Forgets the runs so far: they warm up."""
        self._runs.clear()

    def _now(self, steps: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        found = dict(steps())
        if found.keys() >= set(STEPS):
            found[SERVER] = sum(found[step] for step in STEPS)
        return {POSTGRES: family_cpu(self._postmaster), **found} if self._postmaster else found

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield "CPU seconds for one GB, medians (least .. most)"
        for name, runs in self._runs.items():
            yield name
            for step in runs[0]:
                found = sorted(run[step] for run in runs)
                yield f"  {step:<40}{statistics.median(found):6.2f}   ({found[0]:.2f} .. {found[-1]:.2f})"
