"""The bounded poll of all tests, for what no event announces: it ends as soon as possible, and never waits for luck."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

PATIENCE = 20.0  # seconds for anything that must happen
INTERVAL = 0.005  # seconds

Condition = Callable[[], bool | Awaitable[bool]]


async def met(condition: Condition, within: float = PATIENCE) -> bool:
    """Returns whether the condition was met within so many seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + within
    while not await _holds(condition):
        if clock() > deadline:
            return False
        await asyncio.sleep(INTERVAL)
    return True


async def until(condition: Condition, hope: str, *, within: float = PATIENCE) -> None:
    """Returns when the condition is met. Fails the test with `hope` if that takes longer than `within` seconds."""
    if not await met(condition, within):
        pytest.fail(f"not within {within:g} s: {hope}")


async def _holds(condition: Condition) -> bool:
    found = condition()
    return found if isinstance(found, bool) else await found
