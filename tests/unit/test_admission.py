"""Admission on its own: what does not need the table."""

import asyncio
from typing import cast

from streamer.jobs.admission import Admission
from streamer.jobs.registry import ActiveExports
from streamer.jobs.retention import Retention
from streamer.jobs.store import Store
from streamer.jobs.tasks import Tasks
from streamer.model import Export, ExportFilter


class Pages:
    """In the place of the table: counts how many pages are read at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    async def page(self, *_: object) -> tuple[list[Export], bool]:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        return [], False


async def test_pages_of_the_list_are_read_one_at_a_time() -> None:
    """A page is assembled in memory, and may be large."""
    pages = Pages()
    admission = Admission(
        cast("Store", pages),
        cast("ActiveExports", None),
        retention=cast("Retention", None),
        tasks=Tasks(),
        permits=asyncio.Semaphore(0),
        capacity=1,
    )
    await asyncio.gather(*(admission.page(ExportFilter(), None, 20) for _ in range(5)))
    assert pages.most == 1
