"""The cores that this process may use, with cgroups of both versions, made up and real."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from streamer.process.cores import cores

MANY = set(range(64))
CPU_1 = Path("/sys/fs/cgroup/cpu")
ENTER = 'echo $$ > "$0" && exec "$@"'
ASK = "from streamer.process.cores import cores; print(cores())"


class Machine:
    """What the kernel tells of a process, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.top = folder / "cgroup"
        self.proc.mkdir()
        self.top.mkdir()

    def version_2(self, path: str, *, root: str = "/", **limits: str) -> None:
        """A group of version 2, and the text of `cpu.max` of each group by its name, `top` for that of the mount."""
        self._describe(f"0::{path}", f"{root} {self.top} rw - cgroup2 cgroup rw")
        for name, text in limits.items():
            self._write("" if name == "top" else name, "cpu.max", text)

    def version_1(self, path: str, quota: int, *, at: str, root: str = "/") -> None:
        """A group of version 1, and the quota of the group `at`, for a period of 50 ms."""
        self._describe(
            f"4:memory:/\n3:cpu,cpuacct:{path}",
            f"/ {self.top}/memory rw - cgroup cgroup rw,memory\n"
            f"31 25 0:27 {root} {self.top} rw - cgroup cgroup rw,cpu,cpuacct",
        )
        self._write(at, "cpu.cfs_quota_us", str(quota))
        self._write(at, "cpu.cfs_period_us", "50000")

    def _describe(self, groups: str, mounts: str) -> None:
        (self.proc / "cgroup").write_text(groups + "\n")
        (self.proc / "mountinfo").write_text(f"30 25 0:26 {mounts}\n1 0 8:1 / / rw shared:1 - ext4 /dev/root rw\n")

    def _write(self, group: str, name: str, text: str) -> None:
        folder = self.top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: MANY)
    return Machine(tmp_path)


def test_without_cgroups_the_affinity_counts(machine: Machine) -> None:
    assert cores(machine.proc) == 64


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("9999999 100000", 64)],
)
def test_quota_of_version_2_in_a_container(machine: Machine, limit: str, expected: int) -> None:
    machine.version_2("/", top=limit)
    assert cores(machine.proc) == expected


def test_smallest_quota_of_the_groups_of_the_process_counts(machine: Machine) -> None:
    machine.version_2("/a/b", top="max 100000", a="300000 100000", **{"a/b": "800000 100000"})
    assert cores(machine.proc) == 3


def test_path_of_the_host_that_does_not_exist_in_the_container(machine: Machine) -> None:
    machine.version_2("/docker/0123", root="/docker/0123", top="400000 100000")
    assert cores(machine.proc) == 4
    machine.version_2("/../other", top="400000 100000")
    assert cores(machine.proc) == 4


@pytest.mark.parametrize(("quota", "expected"), [(-1, 64), (50_000, 1), (125_000, 3)])
@pytest.mark.parametrize("at", ["", "docker", "docker/0123"])
def test_quota_of_version_1(machine: Machine, at: str, quota: int, expected: int) -> None:
    machine.version_1("/docker/0123", quota, at=at)
    assert cores(machine.proc) == expected


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real group that may use half a core."""
    folder = CPU_1 / f"streamer-tests-{uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / "cpu.cfs_period_us").write_text("100000")
        (folder / "cpu.cfs_quota_us").write_text("50000")
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no group can be made here: {error}")
    yield folder
    folder.rmdir()


def test_real_group(half_a_core: Path) -> None:
    said = subprocess.run(
        ["/bin/sh", "-c", ENTER, str(half_a_core / "cgroup.procs"), sys.executable, "-c", ASK],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
    )
    assert said.stdout == b"1\n"
