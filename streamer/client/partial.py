"""FILE.part, which is renamed to FILE when it is complete and verified, and not before.

Beside it lies FILE.part.json (see metadata.py), and FILE.part.lock while a process writes the part: two pulls never
write the same one. A part that is written from its beginning on shows its progress by its size. A part that is written
in pieces has its full size from the start, and its metadata lists the pieces.

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

from streamer.client.address import Address
from streamer.client.errors import LocalFileError
from streamer.client.hashing import FileHasher
from streamer.client.lock import FileLock
from streamer.client.metadata import Metadata, MetadataFile, mismatch
from streamer.client.pieces import merge
from streamer.client.progress import ProgressListener
from streamer.client.status import ExportStatus
from streamer.client.target import file_exists_error, part_path, resolved, translating_os_errors
from streamer.client.writing import SYNC_INTERVAL, SyncedWriter, sync_folder
from streamer.protocol.ranges import Slice

MAX_PENDING = 3  # chunks that are being written and hashed while another one is received


class PartialFile:
    """The part of one target, as a context that holds its lock. Every method raises LocalFileError for an OSError."""

    def __init__(self, target: Path, *, sync_interval: int = SYNC_INTERVAL) -> None:
        """Each `sync_interval` bytes are synced while further ones come."""
        self.target = resolved(target)
        self.path = part_path(target)
        self.pieces: list[Slice] | None = None  # None: it is written from its beginning on
        self._sync_interval = sync_interval
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

    def begin(self, address: Address, status: ExportStatus, *, force: bool) -> None:
        """Resumes the bytes of the part if they are of this export; otherwise `force` discards them.

        Raises LocalFileError and Replaced for bytes of another export.
        """
        with self._translating_os_errors():
            size = self._writer.size
            found = self._metadata_file.read()
            error = mismatch(self.path, found, export_id=status.export_id, etag=status.etag) if size else None
            if error is not None:
                if not force:
                    raise error
                self._writer.truncate()
            elif size and found:
                self.pieces = found.slices
            self._metadata = Metadata(status.export_id, address.download, status.etag)
            self._write_metadata()
            if force:
                self._copy_mode(stat.S_IRUSR | stat.S_IWUSR)

    def refuse_existing(self) -> None:
        """Raises LocalFileError if the part has bytes: a new export cannot resume any."""
        with self._translating_os_errors():
            if self._writer.size and (
                error := mismatch(self.path, self._metadata_file.read(), export_id=None, etag="")
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

    async def finish(self, *, force: bool) -> None:
        """Syncs the part, and renames it to the target."""
        with self._translating_os_errors():
            await asyncio.wrap_future(self._writer.sync())
            if not force and self.target.exists():
                raise file_exists_error(self.target)
            self._close()
            self._copy_mode()
            self.path.replace(self.target)
            self.pieces = None
            sync_folder(self.target.parent)
            self._metadata_file.remove()

    def discard(self) -> None:
        """Removes the part and its metadata. Raises OSError."""
        self._close()
        self.pieces = None
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

    def _copy_mode(self, extra: int = 0) -> None:
        """Gives the part the permissions of the file that it replaces, so that it is never more accessible."""
        if not self.target.exists():
            return
        mode = stat.S_IMODE(self.target.stat().st_mode) | extra
        if mode != stat.S_IMODE(self.path.stat().st_mode):
            self.path.chmod(mode)

    def _is_useless(self) -> bool:
        """Whether the part is empty, or a sync has failed: the file then shows bytes that the disk does not have."""
        return self._writer.sync_failed or (self.path.exists() and not self.path.stat().st_size)

    def _write_metadata(self) -> None:
        assert self._metadata is not None
        self._metadata = self._metadata.with_slices(self.pieces)
        self._metadata_file.write(self._metadata)

    def _translating_os_errors(self) -> AbstractContextManager[None]:
        return translating_os_errors(self.path)


def resumable_part(target: Path, export_id: UUID) -> Path | None:
    """Returns the path of the part if another run can resume it: it has bytes of this export, and no writer.

    Raises OSError and LocalFileError.
    """
    part = part_path(target)
    found = MetadataFile(part).read()
    if resolved(target).exists() or not part.stat().st_size or found is None or found.export_id != export_id:
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
