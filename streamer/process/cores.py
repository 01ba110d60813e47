"""The number of cores that this process may use, limited by its affinity and by the quotas of its cgroups.

`os.cpu_count` counts the cores of the host, also in a container that is limited to one of them.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from streamer.process.cgroups import PROC, groups


def cores(proc: Path = PROC) -> int:
    """Returns at least 1. `proc` is the folder of this process in procfs."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """The quota, in cores, of each control group of the process that has one."""
    for folder, version in groups("cpu", proc):
        with suppress(OSError, ValueError):  # no such controller, or `max`
            if version == 1:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            else:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            if quota > 0:
                yield quota / period
