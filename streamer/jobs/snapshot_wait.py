"""How long an export has waited for a snapshot of the source."""

import asyncio


class SnapshotWait:
    """Counts the runs in a row that got no snapshot, and measures the time since the first of them."""

    def __init__(self) -> None:
        self.runs = 0
        self._created = asyncio.get_running_loop().time()
        self._first_ended: float | None = None

    def add_run(self) -> None:
        """Counts a run that has ended without a snapshot."""
        self.runs += 1
        if self._first_ended is None:
            self._first_ended = asyncio.get_running_loop().time()

    def reset(self) -> None:
        """Ends the wait: a snapshot was taken."""
        self.runs = 0
        self._first_ended = None

    def seconds(self, away_since: float | None) -> float:
        """Returns the time since the first run without a snapshot, or since the source went away if that is longer.

        `away_since` is on the clock of the event loop, None if the source is not away. Time before the export existed
        does not count, nor does time in the queue while the source was available.
        """
        now = asyncio.get_running_loop().time()
        since = now if self._first_ended is None else self._first_ended
        return now - (since if away_since is None else min(since, max(away_since, self._created)))
