"""The client on a system without POSIX; the server there ends with one sentence."""

import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.acceptance.clients import grown
from tests.acceptance.process import TREE, Process, streamer
from tests.integration.pretender import Pretender, pretending, says

CONTENT = b"id\n" + b"".join(b"%d\n" % number for number in range(200_000))
WINDOWS = (sys.executable, "-m", "tests.acceptance.windows")


@pytest.fixture
async def pretender() -> AsyncIterator[Pretender]:
    async with pretending(CONTENT) as pretender:
        yield pretender


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def on_windows(folder: Path, *arguments: str, exit_status: int = 0) -> Process:
    async with streamer(*arguments, folder=folder, command=WINDOWS) as process:
        code = await process.exit_code()
    assert code == exit_status, (process.stdout, process.stderr)
    return process


@pytest.mark.parametrize("options", [("-o", "x.csv"), ("-o", "x.csv", "--connections", "3"), ()])
async def test_a_pull_on_windows_is_verified_and_leaves_nothing_else(
    pretender: Pretender, tmp_path: Path, options: Sequence[str]
) -> None:
    process = await on_windows(tmp_path, "pull", pretender.download, "--json", *options)
    told = json.loads(process.stdout[0])
    assert names(tmp_path) == {told["file"]}
    assert (tmp_path / told["file"]).read_bytes() == CONTENT
    assert process.stderr == []


async def test_force_replaces_a_file_on_windows(pretender: Pretender, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"old")
    options = "-o", "x.csv", "--server", pretender.url
    process = await on_windows(tmp_path, "export", *options, exit_status=1)
    assert process.stderr[0] == "streamer: x.csv exists already; --force replaces it"
    await on_windows(tmp_path, "export", *options, "--force")
    assert (tmp_path / "x.csv").read_bytes() == CONTENT
    await on_windows(tmp_path, "pull", pretender.download, "-o", "x.csv")


async def test_a_failed_pull_on_windows_leaves_no_file(pretender: Pretender, tmp_path: Path) -> None:
    pretender.sha256 = "0" * 64
    await on_windows(tmp_path, "pull", pretender.download, "-o", "x.csv", exit_status=6)
    pretender.statuses = [says(404, detail="there is no such export")]
    await on_windows(tmp_path, "pull", pretender.download, "-o", "x.csv", exit_status=4)
    process = await on_windows(tmp_path, "pull", pretender.download, "-o", "nul.csv", exit_status=1)
    assert process.stderr == ["streamer: nul.csv cannot be the name of a file: NUL is a device"]
    assert names(tmp_path) == set()


async def test_ctrl_c_on_windows_leaves_a_part_with_one_writer(pretender: Pretender, tmp_path: Path) -> None:
    pretender.state = "processing"
    arguments = "pull", pretender.download, "-o", "x.csv"
    async with streamer(*arguments, folder=tmp_path, command=WINDOWS) as process:
        await grown(tmp_path / "x.csv.part")
        second = await on_windows(tmp_path, *arguments, exit_status=1)
        assert second.stderr[0] == "streamer: another pull is writing x.csv.part"
        process.signal(signal.SIGINT)
        assert await process.exit_code() == 130
    assert names(tmp_path) == {"x.csv.part", "x.csv.part.json"}
    pretender.state = "completed"
    await on_windows(tmp_path, *arguments)
    assert (tmp_path / "x.csv").read_bytes() == CONTENT


@pytest.mark.parametrize("verb", ["serve", "demo"])
async def test_the_server_on_windows_ends_with_one_sentence(tmp_path: Path, verb: str) -> None:
    process = await on_windows(tmp_path, verb, exit_status=1)
    assert process.stderr == ["streamer: the server runs on Linux only; on other systems, run it in a container"]
    assert names(tmp_path) == set()


def test_no_module_of_the_client_imports_a_posix_module() -> None:
    """Except lock.py, which chooses between two systems."""
    for path in (*Path(TREE, "streamer", "client").glob("*.py"), *Path(TREE, "streamer", "commands").glob("*.py")):
        found = {
            name for name in ("fcntl", "resource", "termios", "pty", "pwd") if f"import {name}\n" in path.read_text()
        }
        assert found <= ({"fcntl"} if path.name == "lock.py" else set()), path
