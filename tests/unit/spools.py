"""Writing and following a spool in tests."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.spool import Sealed, Spool

PATIENCE = 10.0  # seconds until a test that waits has failed
HEADER = b"id,name\n"
FIRST = HEADER + b"0,Ann\n"  # the first piece that is published: the header and a row
CHUNKS = [b"%d,%s\n" % (number, b"x" * (number % 97)) for number in range(300)]

T = TypeVar("T")


async def soon(event: Awaitable[T]) -> T:
    return await asyncio.wait_for(event, PATIENCE)


async def let_the_loop_run() -> None:
    """Runs every task that waits only for the event loop."""
    for _ in range(20):
        await asyncio.sleep(0)


async def published(spool: Spool, page: bytes, rows: int = 1) -> None:
    """Appends a page and returns once it can be read."""
    frontier = spool.frontier
    await spool.append(page, rows)
    await soon(spool.moved_beyond(frontier))


async def write_all(spool: Spool, pages: list[bytes]) -> Sealed:
    for page in pages:
        await spool.append(page, 1)
    sealed = await soon(spool.finish())
    spool.seal()
    return sealed


async def read_all(spool: Spool, take: Callable[[bytes], Any]) -> None:
    """Follows as a download does, and reads each extent from a file of its own."""
    with Follower(spool) as follower:
        async for extent in follower:
            take(os.pread(follower.file.fileno(), extent.length, extent.offset))


class Reader:
    """A follower, the bytes it has read so far, and how it ended: None before its end."""

    def __init__(self, spool: Spool) -> None:
        self.read = bytearray()
        self.end: str | None = None
        self._follower = Follower(spool)
        self._next: asyncio.Task[None] | None = None

    async def step(self, ticks: int) -> None:
        """Reads an extent if there is one after the ticks; otherwise the next step goes on waiting for it."""
        if self.end is None and self._next is None:
            self._next = asyncio.create_task(self._take())
        await tick(ticks)
        if self._next is not None and self._next.done():
            self._next.result()
            self._next = None

    async def drain(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.end is None:
                await (self._next or self._take())
                self._next = None

    async def leave(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
        self._follower.__exit__()

    async def _take(self) -> None:
        try:
            extent = await anext(self._follower)
        except StopAsyncIteration:
            self.end = "drained"
        except TruncatedError as error:
            self.end = str(error)
        else:
            assert extent.offset == len(self.read)
            found = os.pread(self._follower.file.fileno(), extent.length, extent.offset)
            assert len(found) == extent.length > 0
            self.read += found


async def tick(ticks: int) -> None:
    for _ in range(ticks):
        await asyncio.sleep(0)
