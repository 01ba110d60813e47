"""The command `streamer` as a process of its own, seen from outside: what it says, and how it ends."""

import asyncio
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.polling import PATIENCE, until

STREAMER = Path(sys.executable).with_name("streamer")
TREE = str(Path(__file__).parents[2])  # what is tested is what lies here, wherever the command was installed from
LOG_LINE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,]+ (INFO|WARNING) ")


class Process:
    """`stdout` and `stderr` are the lines said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.stdout: list[str] = []
        self.stderr: list[str] = []

    async def said(self, pattern: str, *, within: float = PATIENCE) -> str:
        """Waits for a line with this pattern on either stream; its first group, or all of what was found."""

        async def spoken() -> bool:
            assert self._find(pattern) or self._process.returncode is None, f"ended early: {self.stderr}"
            return self._find(pattern) is not None

        await until(spoken, f"streamer says {pattern!r}", within=within)
        found = self._find(pattern)
        assert found
        return found[1] if found.re.groups else found[0]

    async def url(self) -> str:
        return await self.said(r"serving on (http://\S+)")

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """To the process alone, or as Ctrl-C does to everything that it started too."""
        (os.killpg if group else os.kill)(self._process.pid, number)

    def limit_files(self, size: int | None) -> None:
        """From now on a file of the process may have so many bytes, or any number (RLIMIT_FSIZE)."""
        soft = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    async def exit_code(self, *, within: float = PATIENCE) -> int:
        return await asyncio.wait_for(self._process.wait(), within)

    def complaint(self) -> str:
        """The one line on stderr that is no log line, which must be the last."""
        lines = [line for line in self.stderr if not LOG_LINE.match(line)]
        assert len(lines) == 1, f"more or less than one line: {self.stderr}"
        assert self.stderr[-1] == lines[0]
        return lines[0]

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in (*self.stdout, *self.stderr) if (found := re.search(pattern, line))), None)


@asynccontextmanager
async def streamer(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    started_by: Sequence[str] = (),
    command: Sequence[str | Path] = (STREAMER,),
) -> AsyncIterator[Process]:
    """Runs the command in `folder` with nothing in its environment but this; kills it at the end if it still runs."""
    running = await asyncio.create_subprocess_exec(
        *started_by,
        *command,
        *arguments,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": TREE, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    process = Process(running)
    assert running.stdout
    assert running.stderr
    readers = [
        asyncio.create_task(_read_lines(running.stdout, process.stdout)),
        asyncio.create_task(_read_lines(running.stderr, process.stderr)),
    ]
    try:
        yield process
    finally:
        await killed(running)
        await asyncio.gather(*readers)


async def killed(process: asyncio.subprocess.Process) -> None:
    """Returns when it has ended, by itself or not."""
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _read_lines(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode().rstrip("\n"))
