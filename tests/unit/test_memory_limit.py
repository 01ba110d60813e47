"""The memory that this process may use, with cgroups of both versions, made up and real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.process.memory import memory
from tests.memory.cgroup import NoGroup, memory_group
from tests.unit.machines import Machine

MB = 1024 * 1024
ASK = "from streamer.process.memory import memory; print(memory())"
PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
NO_LIMIT = "9223372036854771712"  # of version 1


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_cgroups_the_memory_of_the_machine_counts(machine: Machine) -> None:
    assert memory(machine.proc) == PHYSICAL


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", PHYSICAL), (str(150 * MB), 150 * MB), (str(PHYSICAL + MB), PHYSICAL)]
)
def test_limit_of_version_2_in_a_container(machine: Machine, limit: str, expected: int) -> None:
    machine.version_2("/", "memory.max", top=limit)
    assert memory(machine.proc) == expected


def test_smallest_limit_of_the_groups_of_the_process_counts(machine: Machine) -> None:
    machine.version_2("/a/b", "memory.max", top="max", a=str(200 * MB), **{"a/b": str(300 * MB)})
    assert memory(machine.proc) == 200 * MB


@pytest.mark.parametrize(("limit", "expected"), [(NO_LIMIT, PHYSICAL), (str(150 * MB), 150 * MB)])
@pytest.mark.parametrize("at", ["", "docker", "docker/0123"])
def test_limit_of_version_1(machine: Machine, limit: str, expected: int, at: str) -> None:
    machine.version_1("memory", "/docker/0123", at=at, memory__limit_in_bytes=limit)
    assert memory(machine.proc) == expected


def test_real_group() -> None:
    with memory_group(150 * MB) as group:
        if isinstance(group, NoGroup):
            pytest.skip(group.name)
        said = subprocess.run(
            group.entered_by([sys.executable, "-c", ASK]),
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
        )
    assert int(said.stdout) == 150 * MB
