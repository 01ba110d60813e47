"""The unfinished exports of this process: one ActiveExport for each of its rows.

The table is the queue. The registry holds what a row cannot: the spool that followers read, from the moment before the
row exists, and the task that runs the export. Admission, workers and recovery share it.
"""

from collections.abc import Iterator
from uuid import UUID

from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache
from streamer.jobs.gate import SourceGate
from streamer.jobs.retention import Retention
from streamer.jobs.store import Store
from streamer.spool.directory import SpoolDirectory


class ActiveExports:
    """`stopping` is set when the server stops: no more exports are taken, and none is begun."""

    def __init__(
        self,
        store: Store,
        directory: SpoolDirectory,
        *,
        completed: CompletedCache,
        retention: Retention,
        gate: SourceGate,
    ) -> None:
        self._store = store
        self._directory = directory
        self._completed = completed
        self._retention = retention
        self._gate = gate
        self._by_id: dict[UUID, ActiveExport] = {}
        self.stopping = False

    def register(self, export_id: UUID, principal: str) -> ActiveExport:
        """Creates the export's spool, without a file yet. From now on it can be followed."""
        active = ActiveExport(
            *(export_id, principal),
            self._directory.create(export_id, self._retention.keep_room),
            note_served=lambda: self._store.note_served(export_id, active.epoch),
            source_away=lambda: self._gate.away,
            reading=lambda: self._completed.reading(export_id),
        )
        self._by_id[export_id] = active
        return active

    def get(self, export_id: UUID) -> ActiveExport | None:
        return self._by_id.get(export_id)

    def pop(self, export_id: UUID) -> ActiveExport | None:
        """Removes the export, if it is registered: its row has ended, or belongs to another server."""
        return self._by_id.pop(export_id, None)

    def clear(self) -> None:
        self._by_id.clear()

    def __iter__(self) -> Iterator[ActiveExport]:
        return iter(list(self._by_id.values()))

    def __contains__(self, export_id: UUID) -> bool:
        return export_id in self._by_id

    @property
    def waiting(self) -> list[UUID]:
        """The ids of the exports that are queued and have not begun."""
        return [active.id for active in self if active.waiting]

    @property
    def running(self) -> list[UUID]:
        return [active.id for active in self if not active.waiting]
