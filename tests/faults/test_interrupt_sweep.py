"""Ctrl-C at any moment of a pull or an export: one sentence and 130, and the next run completes the file.

By default there are a few moments; `-m sweep` takes 40. The seed is printed, and SWEEP_SEED repeats it. The moments
begin when the command has its handler: before that the interpreter itself is starting.
"""

import asyncio
import os
import random
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.process import STREAMER, Process, streamer
from tests.integration.pretender import Pretender, pretending
from tests.polling import until

CONTENT = b"id\n" + random.Random(7).randbytes(8_000_000)
LISTENING = """
from streamer.__main__ import interrupts, main
interrupts.listen()
print("listening", flush=True)
main()
"""
COMMAND = (sys.executable, "-c", LISTENING)


@pytest.fixture
async def pretender() -> AsyncIterator[Pretender]:
    async with pretending(CONTENT) as pretender:
        yield pretender


def arguments_of(verb: str, pretender: Pretender) -> Sequence[str]:
    what = (pretender.download, "--connections", "2") if verb == "pull" else ("--server", pretender.url)
    return verb, *what, "-o", "x.csv"


async def duration_of(arguments: Sequence[str], folder: Path) -> float:
    """Returns the seconds of an uninterrupted run, from the installation of the handler to the end."""
    async with streamer(*arguments, folder=folder, command=COMMAND) as process:
        await process.said("listening")
        begin = time.monotonic()
        assert await process.exit_code() == 0, process.stderr
        return time.monotonic() - begin


def check(process: Process, exit_status: int, target: Path) -> None:
    said = "\n".join(process.stderr)
    if exit_status == 0:  # the command ended before the signal
        assert process.stderr == []
        assert target.read_bytes() == CONTENT
    else:
        assert exit_status == 130, said
        assert process.stderr[0] == "streamer: interrupted", said
        assert len(process.stderr) <= 2, said
        assert all("resumes it" in line or "continues the download" in line for line in process.stderr[1:])


@pytest.mark.parametrize("verb", ["pull", "export"])
@pytest.mark.parametrize(
    "moments",
    [pytest.param(4, id="4"), pytest.param(40, id="40", marks=[pytest.mark.sweep, pytest.mark.timeout(600)])],
)
async def test_ctrl_c_at_any_moment_is_one_sentence_and_exit_status_130(
    pretender: Pretender, tmp_path: Path, seed: int, verb: str, moments: int
) -> None:
    arguments = arguments_of(verb, pretender)
    longest = await duration_of(arguments, tmp_path)
    chance = random.Random(seed)
    interrupted = 0
    for _ in range(moments):
        clear(tmp_path)
        moment = chance.random() * longest
        async with streamer(*arguments, folder=tmp_path, command=COMMAND) as process:
            await process.said("listening")
            await asyncio.sleep(moment)
            with suppress(ProcessLookupError):  # the command ended before the signal
                process.signal(signal.SIGINT)
            exit_status = await process.exit_code()
        check(process, exit_status, tmp_path / "x.csv")
        interrupted += exit_status == 130
    assert interrupted
    async with streamer("pull", pretender.download, "-o", "x.csv", folder=tmp_path) as process:
        assert await process.exit_code() == 0, process.stderr
    assert names(tmp_path) == {"x.csv"}


async def test_ctrl_c_ends_a_pull_whose_reader_has_stopped(pretender: Pretender, tmp_path: Path) -> None:
    """A write to a full pipe blocks until its reader reads; neither Ctrl-C nor --max-time waits for it."""
    for options, exit_status in (((), 130), (("--max-time", "1"), 5)):
        reader, writer = os.pipe()
        command = STREAMER, "pull", pretender.download, "-o", "-", *options
        process = await asyncio.create_subprocess_exec(*command, stdout=writer, stderr=asyncio.subprocess.PIPE)
        await until(partial(_full, writer), "the pipe is full")
        if exit_status == 130:
            process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, said.count(b"\n")) == (exit_status, 1), said
        os.close(reader)
        os.close(writer)


async def _full(pipe: int) -> bool:
    return not select.select([], [pipe], [], 0)[1]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
