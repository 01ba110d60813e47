"""How many cores this process may use: those that its affinity allows, or as much time as its cgroups give it.

`os.cpu_count` counts those of the host, also in a container that may use one of them.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def cores(proc: Path = PROC) -> int:
    """At least one. `proc` is where the kernel tells of this process."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """The cores that each of the groups around the process may use, those that have a limit."""
    for folder, version in _groups(proc):
        with suppress(OSError, ValueError):  # no such controller, or `max`
            if version == 1:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            else:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            if quota > 0:
                yield quota / period


def _groups(proc: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the groups of the process that tell of its processor time, and their version of cgroups."""
    with suppress(OSError):
        ours = dict(re.findall(r"^[0-9]+:(.*):(/.*)$", (proc / "cgroup").read_text(), re.MULTILINE))
        for line in (proc / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, top = before.split()[3:5]
            kind, _, options = after.split()[:3]
            for names, path in ours.items():
                if kind == "cgroup" and "cpu" in options.split(",") and "cpu" in names.split(","):
                    yield from ((folder, 1) for folder in _upwards(top, root, path))
                if kind == "cgroup2" and not names:
                    yield from ((folder, 2) for folder in _upwards(top, root, path))


def _upwards(top: str, root: str, path: str) -> Iterator[Path]:
    """From the group itself to the top of what is mounted. In a container the path may be that of the host."""
    inside = os.path.relpath(path, root) if path.startswith(root) else "."
    folder = Path(top, inside)
    while folder != Path(top) and Path(top) in folder.parents:
        yield folder
        folder = folder.parent
    yield Path(top)
