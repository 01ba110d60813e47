"""Background tasks that this process keeps a reference to."""

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Any

from streamer.errors import ClientError

log = logging.getLogger(__name__)


class Tasks:
    """Keeps every task until it has ended: the event loop holds only weak references."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        """Logs an unexpected error, because the caller may have left. A ClientError is part of an answer."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ClientError):
            log.error("%s ended badly", task.get_name(), exc_info=error)


async def all_ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Waits until all tasks have ended, in whatever way. If it is cancelled, they go on."""
    if tasks:
        await asyncio.wait(tasks)
