"""Completed exports, with their files open, for those who read them.

A range of a few kilobytes costs less than a statement to the database and an `open`. So the row and the file of an
export that was just read are kept, for as long as `FRESH` says without asking again, and for `LIMIT` exports at most. A
file is closed when it is no longer kept and the last reader has given it back.

What is served is what was sealed: the file is hashed before this process serves it for the first time, unless it sealed
it itself, and again when its inode, size or time of modification have changed.
"""

import asyncio
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from time import monotonic
from typing import BinaryIO, Self
from uuid import UUID

from streamer.errors import ClientError, ExportFailed, ExportGone, NotFound, Unavailable, WrittenByNewer
from streamer.jobs.store import Store
from streamer.model import Export, State
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory, Stamp
from streamer.spool.pagecache import read_if_cached

log = logging.getLogger(__name__)

LIMIT = 64  # open files that nobody may be reading
FRESH = 1.0  # seconds: so long a file may be served after another server has removed it
NOTING = 1.0  # seconds that a download waits for the table to note that it was used
GONE = "the file of this export is gone, or damaged; start a new one"
ELSEWHERE = "the file of this export is in the folder of another server"


class CompletedExport:
    """A completed export and its open file, lent to readers: `with` gives it back."""

    broken: "asyncio.Future[str] | None" = None  # all of it is there

    def __init__(
        self, export: Export, file: BinaryIO, readers: Counter[UUID], close: Callable[[BinaryIO], object]
    ) -> None:
        self.export = export
        self.content = ContentDescription.of(export)
        self.file = file
        self._readers = readers
        self._close = close
        self.length = export.progress.bytes
        self._fresh_until = monotonic() + FRESH
        self._holders = 1  # the shelf itself

    @property
    def last_modified(self) -> datetime:
        """In whole seconds, as HTTP writes it."""
        assert self.export.finished_at is not None
        return self.export.finished_at.replace(microsecond=0)

    @property
    def fresh(self) -> bool:
        return monotonic() < self._fresh_until

    @property
    def open(self) -> bool:
        """Whether it may be lent: its file is closed, or about to be, once all have given it back."""
        return self._holders > 0

    def read(self, offset: int, length: int) -> bytearray | None:
        """The bytes, if that takes no waiting for the disk. None otherwise."""
        return read_if_cached(self.file.fileno(), offset, length)

    def retain(self) -> Self:
        self._holders += 1
        self._readers[self.export.id] += 1
        return self

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._close(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        _leave(self._readers, self.export.id)
        self.release()


def _leave(readers: Counter[UUID], export_id: UUID) -> None:
    readers[export_id] -= 1
    if not readers[export_id]:
        del readers[export_id]


class CompletedCache:
    """The shelf of completed exports."""

    def __init__(self, store: Store, directory: SpoolDirectory) -> None:
        self._store = store
        self._directory = directory
        self._kept: OrderedDict[UUID, CompletedExport] = OrderedDict()
        self._readers: Counter[UUID] = Counter()
        self._verified: dict[UUID, Stamp] = {}
        self._verifying: dict[UUID, asyncio.Task[None]] = {}
        self._looking_up: dict[UUID, asyncio.Task[CompletedExport]] = {}

    async def acquire(self, export_id: UUID) -> CompletedExport:
        """A completed export, to be given back. Raises what `refusal` says of any other, and NotFound."""
        while True:
            kept = self._kept.get(export_id)
            if kept is None or not kept.fresh:
                kept = await self._looked_up_once(export_id)
            if kept.open:  # it may have been dropped meanwhile
                return kept.retain()

    def mark_verified(self, export_id: UUID) -> None:
        """The file was sealed by this very process."""
        with suppress(OSError):  # it is hashed then, if it is there
            self._verified[export_id] = self._directory.stamp(export_id)

    async def ensure_verified(self, sealed: CompletedExport) -> None:
        """To be awaited before a byte of it leaves. Raises ExportGone and Unavailable as `borrow` does."""
        if self._is_verified(sealed):
            return
        await self._verified_once(sealed)
        if not self._is_verified(sealed):  # what was hashed has taken the place of what is open
            self.evict(sealed.export.id)
            raise Unavailable("the file of this export was replaced a moment ago")

    def _is_verified(self, sealed: CompletedExport) -> bool:
        return self._verified.get(sealed.export.id) == Stamp.of(os.fstat(sealed.file.fileno()))

    async def _verified_once(self, sealed: CompletedExport) -> None:
        """However many ask at once."""
        verifying = self._verifying.get(sealed.export.id)
        if verifying is None:
            verifying = self._verifying[sealed.export.id] = asyncio.create_task(self._verify(sealed.export))
            verifying.add_done_callback(lambda _: self._verifying.pop(sealed.export.id))
        await asyncio.shield(verifying)

    async def _verify(self, export: Export) -> None:
        """Raises ExportGone and Unavailable."""
        try:
            before = self._directory.stamp(export.id)
            intact = await self._directory.sha256(export.id) == export.sha256
            intact &= self._directory.stamp(export.id) == before
        except OSError as error:
            raise self._missing(export) from error
        if not intact:
            log.error("the file of export %s is not what was sealed: its SHA-256 differs", export.id)
            self.drop(export.id)
            raise self._missing(export)
        self._verified[export.id] = before

    def _missing(self, export: Export) -> ClientError:
        """What to say of a completed export without a whole file here."""
        here = export.folder is None or export.folder == self._directory.id
        return ExportGone(GONE) if here else Unavailable(ELSEWHERE)

    @contextmanager
    def reading(self, export_id: UUID) -> Iterator[None]:
        """While the context is open the file is being downloaded, whether it is sealed yet or not."""
        self._readers[export_id] += 1
        try:
            yield
        finally:
            _leave(self._readers, export_id)

    def is_read(self, export_id: UUID) -> bool:
        """Whether it is being downloaded from here."""
        return export_id in self._readers

    @property
    def being_read(self) -> list[UUID]:
        """Those that are being downloaded from here."""
        return list(self._readers)

    def evict(self, export_id: UUID) -> None:
        """It is kept no longer; whoever asks next has it looked up again."""
        if kept := self._kept.pop(export_id, None):
            kept.release()

    def drop(self, export_id: UUID) -> None:
        """Its file is removed. Who asks from now on is not given what was looked up before."""
        self.evict(export_id)
        self._looking_up.pop(export_id, None)
        self._verified.pop(export_id, None)

    def close(self) -> None:
        for task in (*self._verifying.values(), *self._looking_up.values()):
            task.cancel()
        for export_id in list(self._kept):
            self.evict(export_id)

    async def _looked_up_once(self, export_id: UUID) -> CompletedExport:
        """However many ask at once. It may have been dropped since, and is closed then."""
        looking_up = self._looking_up.get(export_id)
        if looking_up is None:
            looking_up = self._looking_up[export_id] = asyncio.create_task(self._look_up_and_keep(export_id))
        return await asyncio.shield(looking_up)

    async def _look_up_and_keep(self, export_id: UUID) -> CompletedExport:
        self.evict(export_id)
        try:
            found = await self._look_up(export_id)
        finally:
            wanted = self._looking_up.get(export_id) is asyncio.current_task()
            if wanted:
                del self._looking_up[export_id]
        if not wanted:
            found.release()
            return found
        return self._keep(found)

    async def _look_up(self, export_id: UUID) -> CompletedExport:
        export = await self._store.get(export_id)
        if export is None:
            raise NotFound(f"there is no export {export_id}")
        if export.state is not State.COMPLETED or export.removed_at is not None:
            raise refusal(export)
        try:
            file = self._directory.open(export_id, export.progress.bytes)
        except FileNotFoundError as error:
            raise self._missing(export) from error
        found = CompletedExport(export, file, self._readers, self._directory.close_reader)
        try:
            await self._note_used(export_id)
        except BaseException:
            found.release()
            raise
        return found

    async def _note_used(self, export_id: UUID) -> None:
        """A table that cannot be written to keeps no completed export from being downloaded."""
        try:
            async with asyncio.timeout(NOTING):
                await self._store.note_used(export_id)
        except (Unavailable, TimeoutError) as error:
            log.warning("that export %s is used could not be noted: %r", export_id, error.__cause__ or error)

    def _keep(self, found: CompletedExport) -> CompletedExport:
        self._kept[found.export.id] = found
        while len(self._kept) > LIMIT:
            self.evict(next(iter(self._kept)))
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
