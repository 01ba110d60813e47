"""Writing and following a spool in tests."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from streamer.spool.follower import Follower
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
