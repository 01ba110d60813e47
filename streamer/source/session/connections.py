"""The connections to the source that all exports share."""

from collections.abc import Iterator
from contextlib import contextmanager

from streamer.postgres.driver import Pool


class Connections:
    """The connections to the source, shared by all exports, which use them as `role`.

    Each of `leads` exports at once has one that is its own. What the pool has beyond these is given to those who ask
    first, up to `helpers` for one export: nobody ever waits for a second connection. `beside` has connections to the
    same database for short questions, which no export holds.
    """

    def __init__(
        self, pool: Pool, *, leads: int, helpers: int, role: str | None = None, beside: "Pool | None" = None
    ) -> None:
        self.pool = pool
        self.beside = beside or pool
        self.role = role
        self.helpers = helpers
        self._spare = pool.get_max_size() - leads

    @contextmanager
    def one_more(self) -> Iterator[bool]:
        """Whether one more connection may be used while the context is open."""
        granted = self._spare > 0
        self._spare -= granted
        try:
            yield granted
        finally:
            self._spare += granted
