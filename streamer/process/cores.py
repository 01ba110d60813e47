"""The number of cores that this process may use, limited by its affinity and by the quotas of its cgroups.

`os.cpu_count` counts the cores of the host, also in a container that is limited to one of them.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def cores(proc: Path = PROC) -> int:
    """Returns at least 1. `proc` is the folder of this process in procfs."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """The quota, in cores, of each control group of the process that has one."""
    for folder, version in _groups(proc):
        with suppress(OSError, ValueError):  # no such controller, or `max`
            if version == 1:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            else:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            if quota > 0:
                yield quota / period


def _groups(proc: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups that limit the processor time of the process, and their cgroup version."""
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
    """From the group itself to the top of the mount. In a container the path may be that of the host."""
    inside = os.path.relpath(path, root) if path.startswith(root) else "."
    folder = Path(top, inside)
    while folder != Path(top) and Path(top) in folder.parents:
        yield folder
        folder = folder.parent
    yield Path(top)
