"""The time for which an export may hold its snapshot.

An old snapshot prevents the database from cleaning up, on the source and, with hot_standby_feedback, on its primary.
The clock starts when the snapshot is taken, runs while the sink waits, and stops when the last row has been passed on.
The time in the queue, the wait for the source and the last fsync do not count.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from streamer.durations import written_duration
from streamer.errors import ExportFailure


class TimeLimit:
    """A limit of `seconds` from now on; None means no limit."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancels the context when the time is over, and then raises ExportFailure, also if the context has failed."""
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                yield
        except Exception as error:
            if not limit.expired():
                raise
            raise ExportFailure(self._sentence()) from (None if isinstance(error, TimeoutError) else error)

    def _sentence(self) -> str:
        assert self._seconds is not None
        allowed = written_duration(timedelta(seconds=self._seconds))
        return f"the rows were read for longer than EXPORT_MAX_TIME allows, {allowed}"
