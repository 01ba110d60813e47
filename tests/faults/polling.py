"""A bounded poll that answers, where `tests.exporting.until` fails the test."""

import asyncio
from collections.abc import Awaitable, Callable

INTERVAL = 0.005  # seconds


async def met(condition: Callable[[], Awaitable[bool]], within: float) -> bool:
    """Whether the condition was met within so many seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + within
    while not await condition():
        if clock() > deadline:
            return False
        await asyncio.sleep(INTERVAL)
    return True
