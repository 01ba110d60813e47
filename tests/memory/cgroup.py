"""A memory cgroup around one process, version 1 or 2, or none where this machine allows none.

What the limit is about is what the kernel cannot take back: anonymous memory, the kernel's own for this group, and what
waits in sockets. Page cache fills a group up to its limit, as it is meant to, so `usage` alone says little. Version 2
counts sockets within the usage; version 1 counts them apart, and only if they have a limit, so they are given one here
and added.
"""

import errno
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

LIMIT = 150 * 1024 * 1024  # bytes
REMOVAL = 5.0  # seconds for the last process to have left
ENTER = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Of one moment, in bytes. `usage` is everything that counts against the limit, sockets included."""

    usage: int
    anonymous: int
    cache: int
    kernel: int
    sockets: int

    @property
    def held(self) -> int:
        """What cannot be taken back."""
        return self.anonymous + self.kernel + self.sockets


class Group(ABC):
    """`name` says what kind of group it is."""

    name: str

    def entered_by(self, command: Sequence[str]) -> list[str]:
        """The command, which enters the group before it is run."""
        return list(command)

    @abstractmethod
    def sample(self, pid: int) -> Sample: ...

    def peak(self) -> int | None:
        """The most that was ever used, as the kernel remembers it."""
        return None

    def failures(self) -> int:
        """How often the limit was met, and memory had to be taken back."""
        return 0

    def oom_kills(self) -> int:
        return 0

    def remove(self) -> None:
        return


class NoGroup(Group):
    name = "no cgroup can be had here: memory of the process only"

    def sample(self, pid: int) -> Sample:
        status = Path(f"/proc/{pid}/status").read_text()
        found = dict(re.findall(r"(RssAnon|RssFile):\s+(\d+) kB", status))
        anonymous, cache = (1024 * int(found.get(name, 0)) for name in ("RssAnon", "RssFile"))
        return Sample(usage=anonymous + cache, anonymous=anonymous, cache=cache, kernel=0, sockets=0)


class _Folder(Group):
    def __init__(self, path: Path) -> None:
        self.path = path

    def entered_by(self, command: Sequence[str]) -> list[str]:
        return ["/bin/sh", "-c", ENTER, str(self.path / "cgroup.procs"), *command]

    def remove(self) -> None:
        """The kernel may still be clearing up behind the process."""
        deadline = time.monotonic() + REMOVAL
        while True:
            try:
                self.path.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _number(self, name: str) -> int:
        return int((self.path / name).read_text())

    def _table(self, name: str) -> dict[str, int]:
        return {word: int(number) for word, number in map(str.split, (self.path / name).read_text().splitlines())}


class Version1(_Folder):
    name = "cgroup v1"

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path)
        (path / "memory.limit_in_bytes").write_text(str(limit))
        (path / "memory.kmem.tcp.limit_in_bytes").write_text(str(limit))
        with suppress(OSError):  # where swap is not counted
            (path / "memory.memsw.limit_in_bytes").write_text(str(limit))

    def sample(self, pid: int) -> Sample:
        stat = self._table("memory.stat")
        sockets = self._number("memory.kmem.tcp.usage_in_bytes")
        return Sample(
            usage=self._number("memory.usage_in_bytes") + sockets,
            anonymous=stat["total_rss"] + stat["total_shmem"],
            cache=stat["total_cache"] - stat["total_shmem"],
            kernel=self._number("memory.kmem.usage_in_bytes"),
            sockets=sockets,
        )

    def peak(self) -> int | None:
        return self._number("memory.max_usage_in_bytes")

    def failures(self) -> int:
        return self._number("memory.failcnt")

    def oom_kills(self) -> int:
        return self._table("memory.oom_control").get("oom_kill", 0)


class Version2(_Folder):
    name = "cgroup v2"

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path)
        (path / "memory.max").write_text(str(limit))
        with suppress(OSError):  # where there is no swap
            (path / "memory.swap.max").write_text("0")

    def sample(self, pid: int) -> Sample:
        stat = self._table("memory.stat")
        return Sample(
            usage=self._number("memory.current"),
            anonymous=stat["anon"] + stat["shmem"],
            cache=stat["file"] - stat["shmem"],
            kernel=stat.get("kernel", stat["slab"] + stat["kernel_stack"]),
            sockets=stat["sock"],
        )

    def peak(self) -> int | None:
        return self._number("memory.peak") if (self.path / "memory.peak").exists() else None

    def failures(self) -> int:
        return self._table("memory.events")["max"]

    def oom_kills(self) -> int:
        return self._table("memory.events")["oom_kill"]


@contextmanager
def memory_group(limit: int = LIMIT) -> Iterator[Group]:
    """A new group, which is removed at the end: everything that was in it must have ended by then."""
    group = _new_group(limit)
    try:
        yield group
    finally:
        group.remove()


def _new_group(limit: int) -> Group:
    for parent, version in _parents():
        path = parent / f"streamer-tests-{os.getpid()}-{uuid4().hex[:8]}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            return version(path, limit)
        except OSError:
            path.rmdir()
    return NoGroup()


def _parents() -> Iterator[tuple[Path, type[Version1] | type[Version2]]]:
    """Where a group with a limit on its memory may be made: at the top of what is mounted, or beside our own."""
    ours = dict(re.findall(r"^[0-9]+:(.*):(/.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        top, (kind, _, options) = Path(before.split()[4]), after.split()[:3]
        if kind == "cgroup" and "memory" in options.split(","):
            yield top, Version1
        if kind == "cgroup2":
            beside = (top / ours.get("", "/").lstrip("/")).parent
            yield from ((parent, Version2) for parent in (top, beside) if _hands_memory_on(parent))


def _hands_memory_on(parent: Path) -> bool:
    """Whether children of this group of version 2 have limits on memory, now that they have been asked for."""
    control = parent / "cgroup.subtree_control"
    with suppress(OSError):
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
        return "memory" in control.read_text().split()
    return False
