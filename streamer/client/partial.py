"""FILE.part, which is renamed to FILE when it is complete and verified, and not before.

Beside it lies FILE.part.json (see metadata.py), and FILE.part.lock while a process writes the part: two pulls never
write the same one. A part that is written from its beginning on shows its progress by its size. A part that is written
in pieces has its full size from the start, and its metadata lists the pieces. A compressed part can be decoded: then
FILE.part.decoded is renamed to FILE, and the part stays until then.

Only calls that Windows and macOS have, too, are used, and no file is renamed or removed while it is open.
"""

import asyncio
import stat
from collections import deque
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Self
from uuid import UUID

import msgspec

from streamer.client.address import Address
from streamer.client.errors import LocalFileError, Replaced
from streamer.client.hashing import FileHasher
from streamer.client.lock import FileLock
from streamer.client.metadata import Metadata, MetadataFile, mismatch
from streamer.client.pieces import merge
from streamer.client.progress import ProgressListener
from streamer.client.representation import Representation
from streamer.client.target import file_exists_error, part_path, resolved, translating_os_errors
from streamer.client.unpacking import decode_file
from streamer.client.writing import SYNC_INTERVAL, SyncedWriter, sync_folder
from streamer.coding import Coding
from streamer.protocol.ranges import Slice

OWNER = stat.S_IRUSR | stat.S_IWUSR  # permissions
MAX_PENDING = 3  # chunks that are being written and hashed while another one is received


class PartialFile:
    """The part of one target, as a context that holds its lock. Every method raises LocalFileError for an OSError."""

    def __init__(self, target: Path, *, sync_interval: int = SYNC_INTERVAL) -> None:
        """Each `sync_interval` bytes are synced while further ones come."""
        self.target = resolved(target)
        self.path = part_path(target)
        self.pieces: list[Slice] | None = None  # None: it is written from its beginning on
        self._sync_interval = sync_interval
        self._decoded = self.path.with_name(f"{self.path.name}.decoded")
        self._complete = self.path  # what becomes the target
        self._metadata_file = MetadataFile(self.path)
        self._metadata: Metadata | None = None
        self._lock = _lock_of(self.path)
        self._files: tuple[SyncedWriter, FileHasher] | None = None  # while it is a context
        self._pending: deque[tuple[Future[None], Future[None]]] = deque()

    def __enter__(self) -> Self:
        with self._translating_os_errors():
            if not self._lock.acquire():
                raise LocalFileError(f"another pull is writing {self.path}")
            try:
                self._files = _open(self.path, self._sync_interval)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leaves the files that the next run can resume, and none if the part is empty."""
        self._close()
        with suppress(OSError):
            self._decoded.unlink(missing_ok=True)
            if self.pieces is not None:
                self._write_metadata()
            if self._is_useless():
                self.discard()
        self._lock.release()

    @property
    def length(self) -> int:
        """The number of bytes, from the beginning on, that are hashed."""
        return self._hasher.length

    @property
    def sha256(self) -> str:
        """Of the first `length` bytes, in hexadecimal."""
        return self._hasher.sha256

    @property
    def etag(self) -> str | None:
        """The entity tag of the bytes; None if it is not known yet."""
        assert self._metadata
        return self._metadata.etag or None

    def begin(self, address: Address, wanted: Representation, *, force: bool) -> None:
        """Resumes the bytes of the part if they are of this representation; otherwise `force` discards them.

        Raises LocalFileError and Replaced for other bytes.
        """
        with self._translating_os_errors():
            found = self._metadata_file.read() if self._writer.size else None
            if self._writer.size and (error := self._mismatch(found, wanted)):
                if not force:
                    raise error
                self._writer.truncate()
                found = None
            if found:
                self.pieces = found.slices
            etag = found.etag if found else wanted.etag or ""
            url = address.file(wanted.coding)
            self._metadata = Metadata(wanted.export.export_id, url, etag, coding=wanted.coding)
            self._write_metadata()
            if force:
                self._copy_mode(self.path, OWNER)

    def identify(self, etag: str) -> None:
        """Notes the entity tag, if it was not known. To be called before the first byte is appended."""
        assert self._metadata
        if not self._metadata.etag:
            self._metadata = msgspec.structs.replace(self._metadata, etag=etag)
            with self._translating_os_errors():
                self._write_metadata()

    def refuse_existing(self) -> None:
        """Raises LocalFileError if the part has bytes: a new export cannot resume any."""
        with self._translating_os_errors():
            if self._writer.size and (
                error := mismatch(
                    self.path, self._metadata_file.read(), export_id=None, etag=None, coding=Coding.IDENTITY
                )
            ):
                raise error

    async def hash_existing(self, listener: ProgressListener) -> None:
        """Hashes the rest of the part, which must not have gaps."""
        with self._translating_os_errors():
            size = self._writer.size
            while self.length < size:
                listener.checking(self.length)
                await asyncio.wrap_future(self._hasher.read_to(size))

    async def append(self, chunk: bytes) -> None:
        """Starts to write and to hash, each in a thread of its own; waits while MAX_PENDING chunks are pending."""
        writing = self._writer.append(self.length, chunk)
        self._pending.append((writing, self._hasher.update(chunk)))
        await self._await_pending(MAX_PENDING)

    async def flush(self) -> None:
        """Waits until all appended chunks are written and hashed."""
        await self._await_pending(0)

    async def start_pieces(self, length: int) -> None:
        """Switches to a part that is written in pieces, of `length` bytes in all."""
        with self._translating_os_errors():
            if self.pieces is None:
                self.pieces = merge([Slice(0, self._writer.size)])
            self._write_metadata()
            await asyncio.wrap_future(self._writer.allocate(length))

    async def write_piece(self, start: int, chunk: bytes) -> None:
        assert self.pieces is not None
        with self._translating_os_errors():
            await asyncio.wrap_future(self._writer.write(start, chunk))
        self.pieces = merge([*self.pieces, Slice(start, start + len(chunk))])

    def store_pieces(self) -> None:
        """Writes the metadata, so that the next run knows the pieces even if this process is killed."""
        with self._translating_os_errors():
            self._write_metadata()

    def hash_ahead(self) -> None:
        """Starts to hash up to the first gap. An error is not lost: `hash_existing` reads the same bytes again."""
        if self.pieces and self.pieces[0].start == 0:
            self._hasher.read_to(self.pieces[0].stop)

    async def decode(self, length: int, listener: ProgressListener) -> str:
        """Decodes the part, which is complete, into `length` bytes. Returns their SHA-256, in hexadecimal.

        Raises VerificationFailed.
        """
        assert self._metadata
        with translating_os_errors(self._decoded):
            self._decoded.unlink(missing_ok=True)  # of a run that was killed
            self._decoded.touch()
            self._copy_mode(self._decoded, OWNER)
            sha256 = await decode_file(
                self.path,
                self._decoded,
                self._metadata.coding,
                length,
                sync_interval=self._sync_interval,
                on_progress=listener.decoding,
            )
        self._complete = self._decoded
        return sha256

    async def finish(self, *, force: bool) -> None:
        """Renames the synced part to the target; if it was decoded, the decoded file, and then removes the part."""
        with self._translating_os_errors():
            await asyncio.wrap_future(self._writer.sync())
            if not force and self.target.exists():
                raise file_exists_error(self.target)
            self._close()
            self._copy_mode(self._complete)
            self._complete.replace(self.target)
            sync_folder(self.target.parent)
            self.discard()

    def discard(self) -> None:
        """Removes the part, its decoded file and its metadata. Raises OSError."""
        self._close()
        self.pieces = None
        self._decoded.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self._metadata_file.remove()

    @property
    def _writer(self) -> SyncedWriter:
        assert self._files
        return self._files[0]

    @property
    def _hasher(self) -> FileHasher:
        assert self._files
        return self._files[1]

    def _close(self) -> None:
        """Waits for the threads."""
        self._writer.close()
        self._hasher.close()

    async def _await_pending(self, max_pending: int) -> None:
        """Does not await futures that are done: waking the event loop for every chunk would be slow."""
        with self._translating_os_errors():
            while len(self._pending) > max_pending:
                for work in self._pending.popleft():
                    if not work.done():
                        await asyncio.wrap_future(work)
                    work.result()

    def _mismatch(self, found: Metadata | None, wanted: Representation) -> LocalFileError | Replaced | None:
        return mismatch(self.path, found, export_id=wanted.export.export_id, etag=wanted.etag, coding=wanted.coding)

    def _copy_mode(self, path: Path, extra: int = 0) -> None:
        """Gives a file the permissions of the one that it replaces, so that it is never more accessible."""
        if not self.target.exists():
            return
        mode = stat.S_IMODE(self.target.stat().st_mode) | extra
        if mode != stat.S_IMODE(path.stat().st_mode):
            path.chmod(mode)

    def _is_useless(self) -> bool:
        """Whether the part is empty, or a sync has failed: the file then shows bytes that the disk does not have."""
        return self._writer.sync_failed or (self.path.exists() and not self.path.stat().st_size)

    def _write_metadata(self) -> None:
        assert self._metadata is not None
        self._metadata = self._metadata.with_slices(self.pieces)
        self._metadata_file.write(self._metadata)

    def _translating_os_errors(self) -> AbstractContextManager[None]:
        return translating_os_errors(self.path)


def resumable_part(target: Path, export_id: UUID, coding: Coding) -> Path | None:
    """Returns the path of the part if another run can resume it: it has bytes of this export in this coding.

    No process is writing it.

    Raises OSError and LocalFileError.
    """
    part = part_path(target)
    found = MetadataFile(part).read()
    if resolved(target).exists() or not part.stat().st_size or found is None:
        return None
    if (found.export_id, found.coding) != (export_id, coding):
        return None
    lock = _lock_of(part)
    if not lock.acquire():
        return None
    lock.release()
    return part


def _lock_of(part: Path) -> FileLock:
    return FileLock(part.with_name(f"{part.name}.lock"))


def _open(path: Path, sync_interval: int) -> tuple[SyncedWriter, FileHasher]:
    """Raises OSError."""
    writer = SyncedWriter(path, sync_interval)
    try:
        return writer, FileHasher(path)
    except BaseException:
        writer.close()
        raise
