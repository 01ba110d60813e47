"""The control groups that limit this process: their folders, in cgroups of both versions.

The limits of all groups apply, from the process's own up to the top of the mount. In a container the path of a group
may be that of the host, although the mount shows the container's group only.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def groups(controller: str, proc: Path = PROC) -> Iterator[tuple[Path, int]]:
    """Yields the folders of the groups that limit `controller`, such as "cpu", and their cgroup version.

    `proc` is the folder of this process in procfs. A folder may have no file of the controller.
    """
    with suppress(OSError):
        ours = dict(re.findall(r"^[0-9]+:(.*):(/.*)$", (proc / "cgroup").read_text(), re.MULTILINE))
        for line in (proc / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, top = before.split()[3:5]
            kind, _, options = after.split()[:3]
            for names, path in ours.items():
                if kind == "cgroup" and controller in options.split(",") and controller in names.split(","):
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
