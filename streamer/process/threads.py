"""Work in threads, on objects that the caller may drop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(executor: Executor, act: Callable[[], T]) -> T:
    """Runs `act` in a thread. Returns or raises only when the thread has finished with the objects it works on."""
    work = asyncio.get_running_loop().run_in_executor(executor, act)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.wait({work})
        raise
