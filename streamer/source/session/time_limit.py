"""How long an export may hold its snapshot.

An old snapshot keeps the database from cleaning up, on the source and, with hot_standby_feedback, on its primary. The
clock starts when the snapshot is taken and stops when the last row has been handed over: the time in the queue, for the
source, and for the last fsync does not count. It runs on while the first row is waited for, and while the sink waits.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from streamer.durations import written_duration
from streamer.errors import ExportFailure


class TimeLimit:
    """`seconds` from now on, None without a limit."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Cancels what is done in the context when the time is over. Raises ExportFailure then, however it ended."""
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
