"""A cache of completed exports with open files, those of compressed representations included.

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
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import BinaryIO, Self
from uuid import UUID

from streamer.coding import Coding
from streamer.errors import ClientError, ExportFailed, ExportGone, Unavailable, WrittenByNewer
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.store import Store, not_found
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, Export, Representation, State, Viewer, may_see
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory, Stamp
from streamer.spool.names import SpoolName
from streamer.spool.pagecache import read_if_cached

log = logging.getLogger(__name__)

MAX_CACHED = 64  # open files, with or without readers
GONE = "the file of this export is gone, or damaged; start a new one"
ELSEWHERE = "the file of this export is in the folder of another server"


class NotMadeError(Exception):
    """The representation does not exist, or its file does not. `is_lost` if the row says that there is a file."""

    def __init__(self, *, is_lost: bool) -> None:
        super().__init__("the compressed form of this export has no file")
        self.is_lost = is_lost


@dataclass(frozen=True, slots=True)
class _Outcome:
    length: int  # bytes
    sha256: bytes
    finished_at: datetime


def _outcome(export: Export, representation: Representation | None) -> _Outcome:
    """Returns what the row says that has the file."""
    if representation is None:
        length, sha256, finished_at = export.progress.bytes, export.sha256, export.finished_at
    else:
        length, sha256, finished_at = representation.length, representation.sha256, representation.finished_at
    assert sha256 is not None, "it is completed"
    assert finished_at is not None, "it is completed"
    return _Outcome(length, sha256, finished_at)


class CompletedExport:
    """A completed export in one coding and its open file, with a count of references. `with` releases one."""

    broken: "asyncio.Future[str] | None" = None  # a completed export cannot fail

    def __init__(
        self,
        export: Export,
        representation: Representation | None,
        outcome: _Outcome,
        file: BinaryIO,
        *,
        readers: Counter[UUID],
        close: Callable[[BinaryIO], object],
        lifetime: float,
    ) -> None:
        """`representation` is None for the CSV itself. The rows are used for `lifetime` seconds."""
        self.export = export
        self.representation = representation
        self.content = ContentDescription.of(export.spec, export.created_at)
        self.file = file
        self._readers = readers
        self._close = close
        self.length = outcome.length
        self.sha256 = outcome.sha256
        self.last_modified = outcome.finished_at.replace(microsecond=0)  # in whole seconds, as in HTTP
        self._fresh_until = monotonic() + lifetime
        self._references = 1  # of the cache

    @property
    def name(self) -> SpoolName:
        return SpoolName(self.export.id, self.representation.coding if self.representation else Coding.IDENTITY)

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

    def __init__(
        self, store: Store, representations: RepresentationStore, directory: SpoolDirectory, times: JobTimes
    ) -> None:
        self._store = store
        self._representations = representations
        self._directory = directory
        self._times = times
        self._kept: OrderedDict[SpoolName, CompletedExport] = OrderedDict()
        self._readers: Counter[UUID] = Counter()
        self._verified: dict[SpoolName, Stamp] = {}
        self._verifying: dict[SpoolName, asyncio.Task[None]] = {}
        self._looking_up: dict[SpoolName, asyncio.Task[CompletedExport]] = {}

    async def acquire(self, export_id: UUID, viewer: Viewer, coding: Coding = Coding.IDENTITY) -> CompletedExport:
        """Returns a completed export, which the caller must release.

        Raises NotFound, and `refusal` of any other; for a coding of a completed export that has no file, NotMadeError.
        """
        name = SpoolName(export_id, coding)
        while True:
            kept = self._kept.get(name)
            if kept is None or not kept.fresh:
                kept = await self._look_up_for(name, viewer)
            if not may_see(viewer, kept.export.principal):
                raise not_found(export_id)
            if kept.open:  # it may have been evicted meanwhile
                return kept.retain()

    async def _look_up_for(self, name: SpoolName, viewer: Viewer) -> CompletedExport:
        """Raises NotFound instead of any other refusal for an export that the viewer may not see."""
        try:
            return await self._look_up_once(name)
        except _RefusedError as refused:
            reason = refused.reason if may_see(viewer, refused.principal) else not_found(name.export_id)
            raise reason from refused.__cause__

    def is_kept(self, name: SpoolName) -> bool:
        """Whether the cache has the open file."""
        return name in self._kept

    def mark_verified(self, export_id: UUID, coding: Coding = Coding.IDENTITY) -> None:
        """Trusts the file without hashing, because this process has sealed it."""
        with suppress(OSError):  # then it is hashed when it is served
            self._verified[SpoolName(export_id, coding)] = self._directory.stamp(export_id, coding)

    async def ensure_verified(self, sealed: CompletedExport) -> None:
        """Must be awaited before the first byte is sent. Raises ExportGone, Unavailable and NotMadeError."""
        if self._is_verified(sealed):
            return
        await self._verify_once(sealed)
        if not self._is_verified(sealed):  # another file than the open one was hashed
            self.evict(sealed.name)
            raise Unavailable("the file of this export was replaced a moment ago")

    def _is_verified(self, sealed: CompletedExport) -> bool:
        return self._verified.get(sealed.name) == Stamp.of(os.fstat(sealed.file.fileno()))

    async def _verify_once(self, sealed: CompletedExport) -> None:
        """Shares one verification between concurrent callers."""
        name = sealed.name
        verifying = self._verifying.get(name)
        if verifying is None:
            verifying = self._verifying[name] = asyncio.create_task(self._verify(sealed.export, name, sealed.sha256))
            verifying.add_done_callback(lambda _: self._verifying.pop(name))
        await asyncio.shield(verifying)

    async def _verify(self, export: Export, name: SpoolName, sha256: bytes) -> None:
        """Raises ExportGone, Unavailable and NotMadeError."""
        try:
            before = self._directory.stamp(*name)
            intact = await self._directory.sha256(*name) == sha256
            intact &= self._directory.stamp(*name) == before
        except OSError as error:
            raise self._missing(export, name.coding) from error
        if not intact:
            log.error("%s has changed since it was completed: its SHA-256 differs", self._directory.file_of(*name))
            self.drop_file(name)
            raise self._missing(export, name.coding)
        self._verified[name] = before

    def _missing(self, export: Export, coding: Coding) -> Exception:
        """Returns the error for a completed export without an intact file in this folder."""
        if coding is not Coding.IDENTITY:
            return NotMadeError(is_lost=True)
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

    def evict(self, name: SpoolName) -> None:
        """Removes it from the cache; the next caller looks it up again."""
        if kept := self._kept.pop(name, None):
            kept.release()

    def drop(self, export_id: UUID) -> None:
        """Forgets all its files, because they are removed. A concurrent look-up does not enter the cache."""
        for coding in Coding:
            self.drop_file(SpoolName(export_id, coding))

    def drop_file(self, name: SpoolName) -> None:
        """Forgets one file, as `drop`."""
        self.evict(name)
        self._looking_up.pop(name, None)
        self._verified.pop(name, None)

    def close(self) -> None:
        for task in (*self._verifying.values(), *self._looking_up.values()):
            task.cancel()
        for export_id in list(self._kept):
            self.evict(export_id)

    async def _look_up_once(self, name: SpoolName) -> CompletedExport:
        """Shares one look-up between concurrent callers. The export may have been dropped since, and is closed then."""
        looking_up = self._looking_up.get(name)
        if looking_up is None:
            looking_up = self._looking_up[name] = asyncio.create_task(self._look_up_and_keep(name))
        return await asyncio.shield(looking_up)

    async def _look_up_and_keep(self, name: SpoolName) -> CompletedExport:
        self.evict(name)
        try:
            found = await self._look_up(name)
        finally:
            wanted = self._looking_up.get(name) is asyncio.current_task()
            if wanted:
                del self._looking_up[name]
        if not wanted:
            found.release()
            return found
        return self._keep(found)

    async def _look_up(self, name: SpoolName) -> CompletedExport:
        """Raises NotFound and _RefusedError."""
        export = await self._store.get(name.export_id, EVERYBODY)
        try:
            found = await self._find(export, name)
        except (ClientError, NotMadeError) as reason:
            raise _RefusedError(reason, export.principal) from reason
        try:
            await self._note_used(found.name)
        except BaseException:
            found.release()
            raise
        return found

    async def _find(self, export: Export, name: SpoolName) -> CompletedExport:
        """Raises `refusal`, ExportGone, Unavailable and NotMadeError."""
        if export.state is not State.COMPLETED or export.removed_at is not None:
            raise refusal(export)
        return self._open(export, None if name.coding is Coding.IDENTITY else await self._made(name))

    async def _made(self, name: SpoolName) -> Representation:
        """Raises NotMadeError."""
        found = await self._representations.get(name)
        if found is None or found.state != State.COMPLETED or found.removed_at is not None:
            raise NotMadeError(is_lost=False)
        return found

    def _open(self, export: Export, representation: Representation | None) -> CompletedExport:
        """Opens the file. Raises ExportGone, Unavailable and NotMadeError."""
        coding = representation.coding if representation else Coding.IDENTITY
        outcome = _outcome(export, representation)
        try:
            file = self._directory.open(export.id, outcome.length, coding)
        except FileNotFoundError as error:
            raise self._missing(export, coding) from error
        return CompletedExport(
            *(export, representation, outcome, file),
            readers=self._readers,
            close=self._directory.close_reader,
            lifetime=self._times.cache_lifetime,
        )

    async def _note_used(self, name: SpoolName) -> None:
        """Notes the use. A table that cannot be written must not prevent the download."""
        try:
            async with asyncio.timeout(self._times.note_timeout):
                await self._store.note_used(name.export_id)
                if name.coding is not Coding.IDENTITY:
                    await self._representations.note_used(name)
        except (Unavailable, TimeoutError) as error:
            log.warning("the use of export %s could not be recorded: %r", name.export_id, error.__cause__ or error)

    def _keep(self, found: CompletedExport) -> CompletedExport:
        self._kept[found.name] = found
        while len(self._kept) > MAX_CACHED:
            self.evict(next(iter(self._kept)))
        return found


class _RefusedError(Exception):
    """A look-up has failed that several callers may share. Not all of them may see the reason."""

    def __init__(self, reason: Exception, principal: str) -> None:
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
