"""A cache of completed exports with open files.

A statement to the database and an `open` cost more than a range of a few kilobytes. So the rows and files of the
MAX_CACHED exports that were read last stay in the cache, and a row is used for `cache_lifetime` seconds without reading
it again. A file is closed when it has left the cache and its last reader has released it.

Only the bytes that were sealed are served: a file is hashed before this process serves it for the first time, unless
this process sealed it, and again when its inode, size or time of modification has changed.
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

from streamer.errors import ClientError, ExportFailed, ExportGone, Unavailable, WrittenByNewer
from streamer.jobs.store import Store, not_found
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, Export, State, Viewer, may_see
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory, Stamp
from streamer.spool.pagecache import read_if_cached

log = logging.getLogger(__name__)

MAX_CACHED = 64  # open files, with or without readers
GONE = "the file of this export is gone, or damaged; start a new one"
ELSEWHERE = "the file of this export is in the folder of another server"


class CompletedExport:
    """A completed export and its open file, with a count of references. `with` releases one."""

    broken: "asyncio.Future[str] | None" = None  # a completed export cannot fail

    def __init__(
        self,
        export: Export,
        file: BinaryIO,
        readers: Counter[UUID],
        close: Callable[[BinaryIO], object],
        *,
        lifetime: float,
    ) -> None:
        """The row is used for `lifetime` seconds."""
        self.export = export
        self.content = ContentDescription.of(export.spec, export.created_at)
        self.file = file
        self._readers = readers
        self._close = close
        self.length = export.progress.bytes
        self._fresh_until = monotonic() + lifetime
        self._references = 1  # of the cache

    @property
    def last_modified(self) -> datetime:
        """In whole seconds, as in HTTP."""
        assert self.export.finished_at is not None
        return self.export.finished_at.replace(microsecond=0)

    @property
    def fresh(self) -> bool:
        return monotonic() < self._fresh_until

    @property
    def open(self) -> bool:
        """Whether the file is open. It is closed with the last reference."""
        return self._references > 0

    def read(self, offset: int, length: int) -> bytearray | None:
        """Returns the bytes if they are in the page cache, None if the disk would have to be read."""
        return read_if_cached(self.file.fileno(), offset, length)

    def retain(self) -> Self:
        self._references += 1
        self._readers[self.export.id] += 1
        return self

    def release(self) -> None:
        self._references -= 1
        if not self._references:
            self._close(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        _count_down(self._readers, self.export.id)
        self.release()


def _count_down(readers: Counter[UUID], export_id: UUID) -> None:
    readers[export_id] -= 1
    if not readers[export_id]:
        del readers[export_id]


class CompletedCache:
    """Looks exports up, verifies their files, and counts the downloads of each."""

    def __init__(self, store: Store, directory: SpoolDirectory, times: JobTimes) -> None:
        self._store = store
        self._directory = directory
        self._times = times
        self._kept: OrderedDict[UUID, CompletedExport] = OrderedDict()
        self._readers: Counter[UUID] = Counter()
        self._verified: dict[UUID, Stamp] = {}
        self._verifying: dict[UUID, asyncio.Task[None]] = {}
        self._looking_up: dict[UUID, asyncio.Task[CompletedExport]] = {}

    async def acquire(self, export_id: UUID, viewer: Viewer) -> CompletedExport:
        """Returns a completed export, which the caller must release. Raises NotFound, and `refusal` of any other."""
        while True:
            kept = self._kept.get(export_id)
            if kept is None or not kept.fresh:
                kept = await self._look_up_for(export_id, viewer)
            if not may_see(viewer, kept.export.principal):
                raise not_found(export_id)
            if kept.open:  # it may have been evicted meanwhile
                return kept.retain()

    async def _look_up_for(self, export_id: UUID, viewer: Viewer) -> CompletedExport:
        """Raises NotFound instead of any other refusal for an export that the viewer may not see."""
        try:
            return await self._look_up_once(export_id)
        except _RefusedError as refused:
            reason = refused.reason if may_see(viewer, refused.principal) else not_found(export_id)
            raise reason from refused.__cause__

    def mark_verified(self, export_id: UUID) -> None:
        """Trusts the file without hashing, because this process has sealed it."""
        with suppress(OSError):  # then it is hashed when it is served
            self._verified[export_id] = self._directory.stamp(export_id)

    async def ensure_verified(self, sealed: CompletedExport) -> None:
        """Must be awaited before the first byte is sent. Raises ExportGone and Unavailable."""
        if self._is_verified(sealed):
            return
        await self._verify_once(sealed)
        if not self._is_verified(sealed):  # another file than the open one was hashed
            self.evict(sealed.export.id)
            raise Unavailable("the file of this export was replaced a moment ago")

    def _is_verified(self, sealed: CompletedExport) -> bool:
        return self._verified.get(sealed.export.id) == Stamp.of(os.fstat(sealed.file.fileno()))

    async def _verify_once(self, sealed: CompletedExport) -> None:
        """Shares one verification between concurrent callers."""
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
            raise _RefusedError(self._missing(export), export.principal) from error
        if not intact:
            log.error("the file of export %s has changed since it was completed: its SHA-256 differs", export.id)
            self.drop(export.id)
            raise self._missing(export)
        self._verified[export.id] = before

    def _missing(self, export: Export) -> ClientError:
        """Returns the error for a completed export without an intact file in this folder."""
        here = export.folder is None or export.folder == self._directory.id
        return ExportGone(GONE) if here else Unavailable(ELSEWHERE)

    @contextmanager
    def reading(self, export_id: UUID) -> Iterator[None]:
        """Counts a download of the file, sealed or not, while the context is open."""
        self._readers[export_id] += 1
        try:
            yield
        finally:
            _count_down(self._readers, export_id)

    def is_read(self, export_id: UUID) -> bool:
        """Whether this process has a download of it."""
        return export_id in self._readers

    @property
    def being_read(self) -> list[UUID]:
        """The exports of which this process has a download."""
        return list(self._readers)

    def evict(self, export_id: UUID) -> None:
        """Removes it from the cache; the next caller looks it up again."""
        if kept := self._kept.pop(export_id, None):
            kept.release()

    def drop(self, export_id: UUID) -> None:
        """Forgets it, because its file is removed. A concurrent look-up does not enter the cache."""
        self.evict(export_id)
        self._looking_up.pop(export_id, None)
        self._verified.pop(export_id, None)

    def close(self) -> None:
        for task in (*self._verifying.values(), *self._looking_up.values()):
            task.cancel()
        for export_id in list(self._kept):
            self.evict(export_id)

    async def _look_up_once(self, export_id: UUID) -> CompletedExport:
        """Shares one look-up between concurrent callers. The export may have been dropped since, and is closed then."""
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
        export = await self._store.get(export_id, EVERYBODY)
        if export.state is not State.COMPLETED or export.removed_at is not None:
            raise _RefusedError(refusal(export), export.principal)
        try:
            file = self._directory.open(export_id, export.progress.bytes)
        except FileNotFoundError as error:
            raise _RefusedError(self._missing(export), export.principal) from error
        found = CompletedExport(
            *(export, file, self._readers, self._directory.close_reader), lifetime=self._times.cache_lifetime
        )
        try:
            await self._note_used(export_id)
        except BaseException:
            found.release()
            raise
        return found

    async def _note_used(self, export_id: UUID) -> None:
        """Notes the use. A table that cannot be written must not prevent the download."""
        try:
            async with asyncio.timeout(self._times.note_timeout):
                await self._store.note_used(export_id)
        except (Unavailable, TimeoutError) as error:
            log.warning("the use of export %s could not be recorded: %r", export_id, error.__cause__ or error)

    def _keep(self, found: CompletedExport) -> CompletedExport:
        self._kept[found.export.id] = found
        while len(self._kept) > MAX_CACHED:
            self.evict(next(iter(self._kept)))
        return found


class _RefusedError(Exception):
    """A look-up has failed that several callers may share. Not all of them may see the reason."""

    def __init__(self, reason: ClientError, principal: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.principal = principal


def refusal(export: Export) -> ClientError:
    """Returns the error for a download of an export that is neither completed nor active in this process."""
    if export.state is State.FAILED:
        return ExportFailed(f"the export failed: {export.error}")
    if export.state is State.COMPLETED and export.removed_at is None:
        return Unavailable("the export was completed by another server a moment ago")
    if export.final:
        how = "was cancelled" if export.state is State.CANCELLED else "was deleted, or has expired"
        return ExportGone(f"the export {how}; start a new one")
    if isinstance(export.state, State):
        return Unavailable("the export is being written by another server")
    return unknown_state(export)


def unknown_state(export: Export) -> WrittenByNewer:
    return WrittenByNewer(f"the export is {export.state!r}, a status that only a newer version of streamer knows")
