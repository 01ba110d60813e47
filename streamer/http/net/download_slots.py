"""The limit on downloads at once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamer.errors import Unavailable
from streamer.http.net.send_buffers import MAX_UNLIMITED, SendBufferBudget, buffered


class DownloadSlots:
    """At most `capacity` downloads at once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._budget = SendBufferBudget()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def acquire(self, request: web.Request) -> Iterator[None]:
        """Takes a slot for the answer to `request` while the context is open. Raises Unavailable if all are taken."""
        if self._taken >= self._capacity:
            raise Unavailable("too many downloads at once")
        self._taken += 1
        self._empty.clear()
        try:
            with buffered(request, self._budget, limited=self._taken > MAX_UNLIMITED):
                yield
        finally:
            self._taken -= 1
            if not self._taken:
                self._empty.set()

    @property
    def free_budget(self) -> int:
        """Bytes of the send-buffer budget that no download holds."""
        return self._budget.free

    async def wait_empty(self) -> None:
        """Returns when there is no download."""
        await self._empty.wait()
