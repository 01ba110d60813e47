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
from tests.unit.machines import Machine

MANY = set(range(64))
CPU_1 = Path("/sys/fs/cgroup/cpu")
ENTER = 'echo $$ > "$0" && exec "$@"'
ASK = "from streamer.process.cores import cores; print(cores())"


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
    machine.version_2("/", "cpu.max", top=limit)
    assert cores(machine.proc) == expected


def test_smallest_quota_of_the_groups_of_the_process_counts(machine: Machine) -> None:
    machine.version_2("/a/b", "cpu.max", top="max 100000", a="300000 100000", **{"a/b": "800000 100000"})
    assert cores(machine.proc) == 3


def test_path_of_the_host_that_does_not_exist_in_the_container(machine: Machine) -> None:
    machine.version_2("/docker/0123", "cpu.max", root="/docker/0123", top="400000 100000")
    assert cores(machine.proc) == 4
    machine.version_2("/../other", "cpu.max", top="400000 100000")
    assert cores(machine.proc) == 4


@pytest.mark.parametrize(("quota", "expected"), [(-1, 64), (50_000, 1), (125_000, 3)])
@pytest.mark.parametrize("at", ["", "docker", "docker/0123"])
def test_quota_of_version_1(machine: Machine, at: str, quota: int, expected: int) -> None:
    machine.version_1("cpu,cpuacct", "/docker/0123", at=at, cpu__cfs_quota_us=str(quota), cpu__cfs_period_us="50000")
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
