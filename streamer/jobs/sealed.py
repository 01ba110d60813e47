"""Completed exports, with their files open, for those who read them.

A range of a few kilobytes costs less than a statement to the database and an `open`. So the row and the file of an
export that was just read are kept, for as long as `FRESH` says without asking again, and for `LIMIT` exports at most. A
file is closed when it is no longer kept and the last reader has given it back.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from datetime import datetime
from time import monotonic
from typing import BinaryIO, Self
from uuid import UUID

from streamer.errors import ClientError, ExportFailed, ExportGone, NotFound, Unavailable, WrittenByNewer
from streamer.jobs.store import Store
from streamer.model import Export, State
from streamer.protocol.disposition import Label
from streamer.spool.directory import SpoolDirectory
from streamer.spool.pagecache import read_if_cached

log = logging.getLogger(__name__)

LIMIT = 64  # open files that nobody may be reading
FRESH = 1.0  # seconds: so long a file may be served after another server has removed it
GONE = "the file of this export is gone, or damaged; start a new one"


class SealedExport:
    """A completed export that is lent to readers: `with` gives it back. Its file is opened for the first who reads."""

    broken: "asyncio.Future[str] | None" = None  # all of it is there

    def __init__(self, export: Export, directory: SpoolDirectory, readers: Counter[UUID]) -> None:
        self.export = export
        self.label = Label.of(export)
        self._readers = readers
        self._directory = directory
        self._file: BinaryIO | None = None
        self.length = export.progress.bytes
        self._fresh_until = monotonic() + FRESH
        self._holders = 1  # the shelf itself

    @property
    def last_modified(self) -> datetime:
        """In whole seconds, as HTTP writes it."""
        assert self.export.finished_at is not None
        return self.export.finished_at.replace(microsecond=0)

    def open(self) -> None:
        """Opens the file, if nobody has yet. Raises ExportGone if it has been removed, or is not what was sealed."""
        if self._file is None:
            try:
                self._file = self._directory.open(self.export.id, self.length)
            except FileNotFoundError as error:
                raise ExportGone(GONE) from error

    @property
    def file(self) -> BinaryIO:
        """The open file."""
        assert self._file is not None
        return self._file

    @property
    def fresh(self) -> bool:
        return monotonic() < self._fresh_until

    def read(self, offset: int, length: int) -> bytearray | None:
        """The bytes, if that takes no waiting for the disk. None otherwise."""
        return read_if_cached(self.file.fileno(), offset, length)

    def lend(self) -> Self:
        self._holders += 1
        self._readers[self.export.id] += 1
        return self

    def give_back(self) -> None:
        self._holders -= 1
        if not self._holders and self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._readers[self.export.id] -= 1
        if not self._readers[self.export.id]:
            del self._readers[self.export.id]
        self.give_back()


class SealedExports:
    """The shelf of completed exports."""

    def __init__(self, store: Store, directory: SpoolDirectory) -> None:
        self._store = store
        self._directory = directory
        self._kept: OrderedDict[UUID, SealedExport] = OrderedDict()
        self._readers: Counter[UUID] = Counter()
        self._verified: set[UUID] = set()
        self._verifying: dict[UUID, asyncio.Task[None]] = {}

    async def borrow(self, export_id: UUID) -> SealedExport:
        """A completed export, to be given back. Raises what `refusal` says of any other, and NotFound."""
        kept = self._kept.get(export_id)
        if kept is None or not kept.fresh:
            self.forget(export_id)
            kept = self._keep(await self._look_up(export_id))
        self._kept.move_to_end(export_id)
        return kept.lend()

    def trust(self, export_id: UUID) -> None:
        """The file was sealed by this very process."""
        self._verified.add(export_id)

    async def open(self, sealed: SealedExport) -> None:
        """Opens the file for reading; one that this process has not sealed is hashed before the first time.

        Raises ExportGone if it has been removed, or is not what was sealed.
        """
        if sealed.export.id not in self._verified:
            await self._verified_once(sealed.export)
        sealed.open()

    async def _verified_once(self, export: Export) -> None:
        """However many ask at once. Raises ExportGone."""
        verifying = self._verifying.get(export.id)
        if verifying is None:
            verifying = self._verifying[export.id] = asyncio.create_task(self._verify(export))
            verifying.add_done_callback(lambda _: self._verifying.pop(export.id))
        await asyncio.shield(verifying)

    async def _verify(self, export: Export) -> None:
        try:
            intact = await self._directory.sha256(export.id) == export.sha256
        except OSError as error:
            raise ExportGone(GONE) from error
        if not intact:
            log.error("the file of export %s is not what was sealed: its SHA-256 differs", export.id)
            raise ExportGone(GONE)
        self._verified.add(export.id)

    def is_read(self, export_id: UUID) -> bool:
        """Whether somebody is downloading it from here."""
        return export_id in self._readers

    def forget(self, export_id: UUID) -> None:
        """It is kept no longer; whoever asks next has it looked up again."""
        if kept := self._kept.pop(export_id, None):
            kept.give_back()

    def drop(self, export_id: UUID) -> None:
        """Its file is removed."""
        self.forget(export_id)
        self._verified.discard(export_id)

    def close(self) -> None:
        for export_id in list(self._kept):
            self.forget(export_id)

    async def _look_up(self, export_id: UUID) -> SealedExport:
        export = await self._store.get(export_id)
        if export is None:
            raise NotFound(f"there is no export {export_id}")
        if export.state is not State.COMPLETED or export.removed_at is not None:
            raise refusal(export)
        await self._store.note_used(export_id)
        return SealedExport(export, self._directory, self._readers)

    def _keep(self, found: SealedExport) -> SealedExport:
        self.forget(found.export.id)  # somebody may have been faster
        self._kept[found.export.id] = found
        while len(self._kept) > LIMIT:
            self.forget(next(iter(self._kept)))
        return found


def refusal(export: Export) -> ClientError:
    """Why an export that is not running here has nothing to download."""
    if export.state is State.FAILED:
        return ExportFailed(f"the export failed: {export.error}")
    if export.final:
        how = "was cancelled" if export.state is State.CANCELLED else "was deleted, or has expired"
        return ExportGone(f"the export {how}; start a new one")
    if isinstance(export.state, State):
        return Unavailable("the export is being written by another server")
    return unknown_state(export)


def unknown_state(export: Export) -> WrittenByNewer:
    return WrittenByNewer(f"the export is {export.state!r}, a state that only a newer version of streamer knows")
