"""Clients as processes of their own, and what they got compared with the file of the export.

Of every follower every byte is compared, by its CRC-32 with that of the same part of the file, one who is slow or has
stopped by what it has got so far; one who is whole must have got to the file's end. The file itself is compared by its
SHA-256 with what the server says of it and, where that is said, with what psql writes.
"""

import asyncio
import hashlib
import mmap
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from isal import isal_zlib

from tests.acceptance.process import killed
from tests.memory.confined import Confined
from tests.memory.crowd import Followed, Order, Orders
from tests.memory.poller import Latencies

PATIENCE = 600.0  # seconds for a crowd to end
THERE = b"there\n"
LINES = 1 << 22  # bytes of one line of answers or orders


class Crowd:
    """Followers in one process."""

    def __init__(self, process: asyncio.subprocess.Process, size: int) -> None:
        self._process = process
        self._size = size

    async def there(self) -> None:
        """Returns when all have their answer's head."""
        assert self._process.stdout
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        assert line == THERE, line

    async def ended(self) -> list[Followed]:
        """Where all read to the end."""
        assert self._process.stdout
        async with asyncio.timeout(PATIENCE):
            lines = [line async for line in self._process.stdout if line != THERE]
            await self._process.wait()
        assert len(lines) == self._size, "the crowd ended badly"
        return [msgspec.json.decode(line, type=Followed) for line in lines]

    async def stopped(self) -> list[Followed]:
        """Waits for those who read to the end, and ends the others."""
        assert self._process.stdin
        with suppress(ConnectionError):
            self._process.stdin.write(b"\n")
            await self._process.stdin.drain()
        return await self.ended()


@asynccontextmanager
async def crowd(server: Confined, followers: Sequence[Order]) -> AsyncIterator[Crowd]:
    host, port = server.address
    orders = Orders(host=host, port=port, followers=list(followers))
    process = await _client("tests.memory.crowd")
    try:
        assert process.stdin
        process.stdin.write(msgspec.json.encode(orders) + b"\n")
        await process.stdin.drain()
        yield Crowd(process, len(followers))
    finally:
        await killed(process)


class Poll:
    latencies: Latencies


@asynccontextmanager
async def health_polled(server: Confined, interval: float) -> AsyncIterator[Poll]:
    """Polls /health while the context is open, and has an answer already; the latencies are known afterwards."""
    host, port = server.address
    process = await _client("tests.memory.poller", host, str(port), str(interval))
    poll = Poll()
    try:
        assert process.stdout
        assert await process.stdout.readline() == b"polling\n"
        yield poll
        answer, _ = await asyncio.wait_for(process.communicate(b"\n"), 10)
        poll.latencies = msgspec.json.decode(answer, type=Latencies)
    finally:
        await killed(process)


async def _client(module: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINES,
    )


def compare(file: Path, followed: Sequence[Followed]) -> str:
    """Fails if any of them has got other bytes than the file has; tells how they ended."""
    digest = sha256_of(file) if any(one.digest for one in followed) else ""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        whole = memoryview(mapped)
        known: dict[tuple[int, int], int] = {}
        for one in followed:
            part = one.start, one.start + one.size
            if part not in known:
                with whole[slice(*part)] as seen:
                    known[part] = isal_zlib.crc32(seen)
            assert part[1] <= len(whole), f"more than there is: {one}"
            assert known[part] == one.crc, f"other bytes than the file's: {one}"
            assert one.end in {"whole", "open"}, one
            assert one.end == "open" or part[1] == len(whole), f"not whole: {one}"
            assert not one.digest or one.end == "open" or one.digest == digest, one
        whole.release()
    ends = Counter(one.end for one in followed)
    digests = sum(bool(one.digest) for one in followed)
    size = sum(one.size for one in followed)
    return (
        f"{ends['whole']} whole, {ends['open']} to where they were, {size / 1e9:.2f} GB, "
        f"each compared by CRC-32, {digests} also by SHA-256"
    )


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
