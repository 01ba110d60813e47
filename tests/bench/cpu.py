"""CPU seconds of a server by the step of its work, and of a PostgreSQL server, from procfs.

A server that is started by `NAMED_THREADS` names its threads in procfs. Then the thread and the mode tell the steps
apart without an instrument in the code: the event loop receives in the kernel, and frames rows in user mode; the
threads of the spools hash in user mode, and write in the kernel. What little Python they run counts as hashing.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped] # its types are a package of their own, which nothing else needs

TICK = os.sysconf("SC_CLK_TCK")
NAMED_THREADS = (sys.executable, "-m", "tests.bench.named_threads")
RECEIVE, FRAME, DIGEST, WRITE, REST = (
    "receive, in the kernel",
    "framing and event loop",
    "digest",
    "write and fsync, in the kernel",
    "other threads",
)
STEPS = (RECEIVE, FRAME, DIGEST, WRITE, REST)


def server_steps(pid: int) -> dict[str, float]:
    """CPU seconds that a server has used for each of `STEPS`."""
    found = dict.fromkeys(STEPS, 0.0)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            user, system = _times(task)
            name = (task / "comm").read_text()
            if task.name == str(pid):
                in_user, in_kernel = FRAME, RECEIVE
            elif name.startswith("spool"):
                in_user, in_kernel = DIGEST, WRITE
            else:
                in_user = in_kernel = REST
            found[in_user] += user
            found[in_kernel] += system
    return found


def process_cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    return sum(_times(Path(f"/proc/{pid}")))


def family_cpu(pid: int) -> float:
    """CPU seconds of a process and its children, also of those that have ended: of PostgreSQL, by its postmaster."""
    found = psutil.Process(pid)
    while True:
        ended: float = sum(found.cpu_times()[2:4])
        living = list(_living(found))
        own, of_ended = found.cpu_times()[:2], found.cpu_times()[2:4]
        if sum(of_ended) == ended:  # no child has ended in the meantime
            return float(sum(own) + ended + sum(living))


def _living(parent: psutil.Process) -> Iterator[float]:
    for child in parent.children():
        with suppress(psutil.NoSuchProcess):
            yield sum(child.cpu_times()[:2])


def _times(folder: Path) -> tuple[float, float]:
    """Seconds in user mode and in the kernel."""
    user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) / TICK, int(system) / TICK
