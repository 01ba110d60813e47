"""The connections to the source that all exports share."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from streamer.postgres.driver import Pool
from streamer.source.dataset import Dataset
from streamer.source.session.snapshot import CLEAN_UP_TIMEOUT, ExportedSnapshot, Snapshot, open_snapshot


class Connections:
    """A budget of connections to the source, which exports without a role of their own use as `role`.

    Each of `leaders` concurrent exports has a connection of its own. The others of `pool` are spare: an export may use
    up to `workers` of them, first come, first served, and never waits for one. `beside` has connections to the same
    database for short queries beside the exports. `clean_up_timeout` (seconds) limits each step at the end of a
    session.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        leaders: int,
        workers: int,
        role: str | None = None,
        beside: "Pool | None" = None,
        clean_up_timeout: float = CLEAN_UP_TIMEOUT,
    ) -> None:
        self.pool = pool
        self.beside = beside or pool
        self.role = role
        self.workers = workers
        self._clean_up_timeout = clean_up_timeout
        self._spare = pool.get_max_size() - leaders

    def open_snapshot(
        self,
        exported: ExportedSnapshot | None = None,
        *,
        role: str | None = None,
        dataset: Dataset | None = None,
        lock_timeout: str = "0",
    ) -> AbstractAsyncContextManager[Snapshot]:
        """Opens a session of an export, as `role` if it has one of its own: see `open_snapshot` in snapshot.py."""
        return open_snapshot(
            *(self.pool, exported),
            role=role or self.role,
            dataset=dataset,
            lock_timeout=lock_timeout,
            clean_up_timeout=self._clean_up_timeout,
        )

    @contextmanager
    def try_reserve(self) -> Iterator[bool]:
        """Reserves a spare connection while the context is open; False if there is none."""
        reserved = self._spare > 0
        self._spare -= reserved
        try:
            yield reserved
        finally:
            self._spare += reserved
