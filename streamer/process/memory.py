"""The memory that this process may use: that of the machine, limited by its cgroups."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from streamer.process.cgroups import PROC, groups

LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}  # by cgroup version


def memory(proc: Path = PROC) -> int:
    """Returns bytes. `proc` is the folder of this process in procfs."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(proc)])


def _limits(proc: Path) -> Iterator[int]:
    """The limit, in bytes, of each control group of the process that has one; of version 1 each has, if a huge one."""
    for folder, version in groups("memory", proc):
        with suppress(OSError, ValueError):  # no such controller, or `max`
            yield int((folder / LIMIT_FILES[version]).read_text())
