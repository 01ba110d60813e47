"""`streamer serve` in a memory group, and what it used.

The server enters the group before it imports anything. Nothing else is in it: neither the database nor a client. The
kernel remembers the most that was used in all; what of it could not be taken back is sampled.
"""

import asyncio
import os
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.acceptance.process import STREAMER
from tests.memory.cgroup import Group, Sample, memory_group

KB, MB = 1024, 1024 * 1024
SAMPLE_INTERVAL = 0.02  # seconds
START = 30.0  # seconds until it serves
STOP = 30.0  # seconds until it has stopped
LAST_LINES = 50  # of the log that are kept


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a server used, in bytes. `most` is each figure's own highest sample."""

    group: str
    peak: int
    rss: int
    most: Sample
    held: int
    failures: int
    oom_kills: int

    def __str__(self) -> str:
        return (
            f"{self.peak / MB:6.1f} {self.rss / MB:6.1f} {self.held / MB:6.1f} {self.most.anonymous / MB:6.1f}"
            f" {self.most.kernel / MB:6.1f} {self.most.sockets / MB:6.1f} {self.most.cache / MB:6.1f}"
            f" {self.failures:8} {self.oom_kills:5}"
        )


HEADINGS = "  peak    RSS   held   anon kernel   sock  cache  failcnt  OOMs"


class Confined:
    """A server that runs in its group."""

    def __init__(self, process: asyncio.subprocess.Process, group: Group, spool: Path) -> None:
        self.pid = process.pid
        self.group = group
        self.spool = spool
        self.url = ""
        self.log: deque[str] = deque(maxlen=LAST_LINES)
        self.warnings = 0  # log lines that are one, or worse
        self._process = process
        self._most = Sample(usage=0, anonymous=0, cache=0, kernel=0, sockets=0)
        self._held = 0

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def rss(self) -> int:
        """Bytes now."""
        return KB * self._status("VmRSS")

    def threads(self) -> int:
        return self._status("Threads")

    def cpu(self) -> float:
        """Seconds until now, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> list[str]:
        """What its descriptors stand for."""
        names = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                names.append(str(link.readlink()))
        return sorted(names)

    def used(self) -> Used:
        """So far. The group's own peak does not count sockets where the version of cgroups is 1."""
        assert self.alive, f"the server has ended: {list(self.log)}"
        return Used(
            group=self.group.name,
            peak=max(self.group.peak() or 0, self._most.usage),
            rss=KB * self._status("VmHWM"),
            most=self._most,
            held=self._held,
            failures=self.group.failures(),
            oom_kills=self.group.oom_kills(),
        )

    def sample(self) -> Sample:
        """Of this moment, also remembered if it is higher than those before."""
        found = self.group.sample(self.pid)
        most = {name: max(getattr(found, name), getattr(self._most, name)) for name in Sample.__slots__}
        self._most = replace(self._most, **most)
        self._held = max(self._held, found.held)
        return found

    async def until_serving(self) -> None:
        assert self._process.stderr
        async with asyncio.timeout(START):
            async for line in self._process.stderr:
                self.log.append(line.decode())
                if found := re.search(r"serving on (http://\S+)", self.log[-1]):
                    self.url = found[1]
                    return
        raise AssertionError(f"the server does not start: {list(self.log)}")

    async def read_log(self) -> None:
        assert self._process.stderr
        async for line in self._process.stderr:
            self.log.append(line.decode(errors="replace"))
            self.warnings += " INFO " not in self.log[-1]

    async def stop(self) -> None:
        if self.alive:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def _status(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1])


@asynccontextmanager
async def confined(spool: Path, database: str, source: str, **settings: str) -> AsyncIterator[Confined]:
    """Runs a server with its settings at their defaults, except for these; its spool must not be in memory."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(spool),
        "API_PORT": "0",
        "DATABASE_URL": database,
        "SOURCE_DATABASE_URL": source,
        "EXPORT_STORAGE_PATH": str(spool),
        **settings,
    }
    with memory_group() as group:
        process = await asyncio.create_subprocess_exec(
            *group.entered_by([str(STREAMER), "serve"]),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=MB,
        )
        server = Confined(process, group, spool)
        try:
            await server.until_serving()
            reader = asyncio.create_task(server.read_log())
            with _sampled(server):
                yield server
        finally:
            await server.stop()
        await reader


@contextmanager
def _sampled(server: Confined) -> Iterator[None]:
    """In a thread: the event loop of a test may be busy when it matters."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_INTERVAL):
            with suppress(OSError):  # it has ended, which `used` tells
                server.sample()

    thread = threading.Thread(target=sample, name="samples")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
