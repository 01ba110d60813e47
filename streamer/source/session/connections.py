"""The connections to the source that all exports share."""

from collections.abc import Iterator
from contextlib import contextmanager

from streamer.postgres.driver import Pool


class Connections:
    """A budget of connections to the source, which all exports use as `role`.

    Each of `leaders` concurrent exports has a connection of its own. The others of `pool` are spare: an export may use
    up to `workers` of them, first come, first served, and never waits for one. `beside` has connections to the same
    database for short queries beside the exports.
    """

    def __init__(
        self, pool: Pool, *, leaders: int, workers: int, role: str | None = None, beside: "Pool | None" = None
    ) -> None:
        self.pool = pool
        self.beside = beside or pool
        self.role = role
        self.workers = workers
        self._spare = pool.get_max_size() - leaders

    @contextmanager
    def try_reserve(self) -> Iterator[bool]:
        """Reserves a spare connection while the context is open; False if there is none."""
        reserved = self._spare > 0
        self._spare -= reserved
        try:
            yield reserved
        finally:
            self._spare += reserved
