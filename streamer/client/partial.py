"""FILE.part, which becomes FILE when it is whole and verified, and not before.

Beside it, as long as it exists, lies FILE.part.json: of which export the bytes are, and by which ETag it is known. It
is written before the first byte, atomically, so a part without it is not ours, and is left alone. The writer of a part
holds the lock FILE.part.lock: two pulls never write the same one.

A part that is written from its beginning on says by its size how far it is. One that is fetched in pieces has its full
size from the start, and the note beside it says which pieces are there. The note is not synced with the data: after a
loss of power it may promise what never reached the disk. The SHA-256 at the end is what is believed.

Only calls that Windows and macOS have, too, are used, and nothing is renamed or removed while it is open.
"""

import asyncio
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self, TypeVar
from uuid import UUID

import msgspec

from streamer.client.address import Address
from streamer.client.download import Digest, new_digest
from streamer.client.errors import LocalFileError, Replaced
from streamer.client.lock import FileLock
from streamer.client.pieces import joined
from streamer.client.progress import ProgressListener
from streamer.client.status import ExportStatus
from streamer.client.target import in_the_way, part_of, told, written
from streamer.protocol.ranges import Slice

READ = 1024 * 1024  # bytes that are read at once for their hash
BEHIND = 3  # chunks that are being written and hashed, while another one comes
HASHED_AT_ONCE = 64 * READ  # bytes between two chances to stop
SYNCED_AT_ONCE = 32 * READ  # bytes that a disk of 1 MB/s takes in half the time after which a server loses patience
Result = TypeVar("Result")


class Note(msgspec.Struct, frozen=True, rename="camel"):
    """What FILE.part.json says. `pieces` is None for a part that is written from its beginning on."""

    export_id: UUID
    url: str
    etag: str
    pieces: list[tuple[int, int]] | None = None


class PartialFile:
    """The part of one target, open and locked, as a context. Every method but `close` raises LocalFileError."""

    def __init__(self, target: Path) -> None:
        self.target = written(target)
        self.path = part_of(target)
        self._note_path = self.path.with_name(f"{self.path.name}.json")
        self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
        self._note: Note | None = None
        self._file: IO[bytes] | None = None  # to write, by one thread
        self._reader: IO[bytes] | None = None  # to hash, by another one
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pull")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0  # bytes
        self._digest: Digest = new_digest()
        self._behind: deque[tuple[Future[None], Future[None]]] = deque()
        self.length = 0  # bytes that are there, and hashed, from the beginning on
        self.pieces: list[Slice] | None = None

    def __enter__(self) -> Self:
        with self._told():
            if not self._lock.acquire():
                raise LocalFileError(f"another pull is writing {self.path}")
            try:
                self.path.touch()
                self._file = self.path.open("r+b", buffering=0)
                self._reader = self.path.open("rb", buffering=0)
            except BaseException:
                self._close()
                self._lock.release()
                raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leaves what the next run can go on with, and nothing where there is no byte of it."""
        self._close()
        with suppress(OSError):
            if self.pieces is not None:
                self._write_note()
            if self._is_of_no_use():
                self.discard()
        self._lock.release()

    def _close(self) -> None:
        """When the threads have done what they have begun."""
        self._executor.shutdown()
        self._hasher.shutdown(cancel_futures=True)
        self._syncer.shutdown()
        for file in (self._file, self._reader):
            if file:
                file.close()

    def begin(self, address: Address, status: ExportStatus, *, force: bool) -> None:
        """Goes on with what is there, if it is of this export. Raises Replaced; `force` throws away anything else."""
        with self._told():
            size = self._size()
            note = self._read_note()
            flaw = self._flaw(note, status.export_id, status.etag) if size else None
            if flaw is not None:
                if not force:
                    raise flaw
                os.ftruncate(self._fd, 0)
            elif size and note and note.pieces is not None:
                self.pieces = joined(Slice(start, stop) for start, stop in note.pieces)
            self._note = Note(status.export_id, address.download, status.etag)
            self._write_note()
            if force:
                self._take_mode(stat.S_IRUSR | stat.S_IWUSR)

    def refuse_if_begun(self) -> None:
        """A new export does not go on with anything."""
        with self._told():
            if self._size() and (flaw := self._flaw(self._read_note(), None, "")):
                raise flaw

    async def hash_what_is_there(self, watcher: ProgressListener) -> None:
        """Of a part that is written from its beginning on, or of one whose pieces are all there."""
        with self._told():
            size = self._size()
            while self.length < size:
                watcher.checking(self.length)
                await asyncio.wrap_future(self._hasher.submit(self._hash, min(self.length + HASHED_AT_ONCE, size)))

    async def append(self, chunk: bytes) -> None:
        """Begins to write and to hash, each in a thread of its own, and waits while too much of that is under way."""
        position, self.length = self.length, self.length + len(chunk)
        writing = self._executor.submit(self._write_next, position, chunk)
        self._behind.append((writing, self._hasher.submit(self._digest.update, chunk)))
        await self._catch_up(BEHIND)

    async def appended(self) -> None:
        """All that was appended is written and hashed."""
        await self._catch_up(0)

    async def _catch_up(self, most: int) -> None:
        """A thread wakes the event loop only if that has to wait: for most chunks it does not."""
        with self._told():
            while len(self._behind) > most:
                for work in self._behind.popleft():
                    if not work.done():
                        await asyncio.wrap_future(work)
                    work.result()

    async def use_pieces(self, length: int) -> None:
        """From now on pieces are written, of so many bytes in all."""
        with self._told():
            if self.pieces is None:
                self.pieces = joined([Slice(0, self._size())])
            self._write_note()
            await self._in_thread(_allocate, self._fd, length)

    async def write_piece(self, start: int, chunk: bytes) -> None:
        assert self.pieces is not None
        with self._told():
            await self._in_thread(self._write, start, chunk)
        self.pieces = joined([*self.pieces, Slice(start, start + len(chunk))])

    def note_pieces(self) -> None:
        """What has been written so far is known to the next run, even if this one is killed."""
        with self._told():
            self._write_note()

    def hash_ahead(self) -> None:
        """Begins to hash what has no gap before it. What fails there fails again when all that is there is hashed."""
        if self.pieces and self.pieces[0].start == 0:
            self._hasher.submit(self._hash, min(self.length + HASHED_AT_ONCE, self.pieces[0].stop))

    @property
    def sha256(self) -> str:
        """Of the first `length` bytes, in hexadecimal."""
        return self._digest.hexdigest()

    async def finish(self, *, force: bool) -> None:
        """On disk, and then FILE."""
        with self._told():
            await self._in_thread(self._sync)
            if not force and self.target.exists():
                raise in_the_way(self.target)
            self._close()
            self._take_mode()
            self.path.replace(self.target)
            self.pieces = None
            _sync_folder(self.target.parent)
            self._note_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """It is no beginning of anything."""
        self._close()
        self.pieces = None
        self.path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)

    def _take_mode(self, more: int = 0) -> None:
        """A file that is replaced keeps its permissions; so that it is never more open, its part has them, too."""
        if not self.target.exists():
            return
        mode = stat.S_IMODE(self.target.stat().st_mode) | more
        if mode != stat.S_IMODE(self.path.stat().st_mode):
            self.path.chmod(mode)

    @property
    def _fd(self) -> int:
        assert self._file
        return self._file.fileno()

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def _is_of_no_use(self) -> bool:
        """It is empty, or not on disk: the system says only once that a sync failed, and then shows what is lost."""
        lost = self._syncing is not None and self._syncing.exception() is not None
        return lost or (self.path.exists() and not self.path.stat().st_size)

    def _flaw(self, note: Note | None, export_id: UUID | None, etag: str) -> LocalFileError | Replaced | None:
        """Why the bytes that are there are not the beginning of this export, or of one that is still to begin."""
        remedy = "remove it, or begin anew with --force"
        if note is None:
            return LocalFileError(f"{self.path} is in the way, and nothing says of which export it is; {remedy}")
        if note.export_id != export_id:
            return LocalFileError(f"{self.path} is a part of another export, {note.url}; finish or {remedy}")
        if note.etag != etag:
            has = f"its ETag is {etag}, and that of {self.path} is {note.etag}"
            return Replaced(f"the export is another one now: {has}; {remedy}")
        return None

    def _read_note(self) -> Note | None:
        try:
            return msgspec.json.decode(self._note_path.read_bytes(), type=Note)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _write_note(self) -> None:
        assert self._note is not None
        pieces = None if self.pieces is None else [(piece.start, piece.stop) for piece in self.pieces]
        self._note = msgspec.structs.replace(self._note, pieces=pieces)
        fresh = self._note_path.with_name(f"{self._note_path.name}.new")
        fresh.write_bytes(msgspec.json.encode(self._note) + b"\n")
        fresh.replace(self._note_path)

    def _write(self, position: int, chunk: bytes) -> None:
        """A disk that is nearly full takes less than it is given, and says why only the next time."""
        rest = memoryview(chunk)
        while rest:
            os.lseek(self._fd, position, os.SEEK_SET)
            count = os.write(self._fd, rest)
            position, rest = position + count, rest[count:]
        self._unsynced += len(chunk)
        if self._unsynced >= SYNCED_AT_ONCE:
            self._sync_beside()

    def _sync_beside(self) -> None:
        """While the next bytes come, so that not all of them wait for the disk in the end.

        A disk that is slower than the network is waited for: what more it gets, it would only have to write later.
        """
        self._await_sync()
        self._unsynced = 0
        self._syncing = self._syncer.submit(os.fsync, self._fd)

    def _await_sync(self) -> None:
        if self._syncing:
            self._syncing.result()

    def _sync(self) -> None:
        """All of it."""
        self._sync_beside()
        self._await_sync()

    def _write_next(self, position: int, chunk: bytes) -> None:
        """After a write that failed, or was cancelled, none comes: nothing may lie behind a hole."""
        if position == self._size():
            self._write(position, chunk)

    def _hash(self, stop: int) -> None:
        assert self._reader
        while self.length < stop:
            self._reader.seek(self.length)
            piece = self._reader.read(min(READ, stop - self.length))
            if not piece:
                raise LocalFileError(f"{self.path} has become shorter: somebody else is writing it")
            self._digest.update(piece)
            self.length += len(piece)

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """In a thread of this part: it is not closed before the thread has done it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    @contextmanager
    def _told(self) -> Iterator[None]:
        with told(self.path):
            yield


async def sha256_of(path: Path) -> str:
    """In hexadecimal. It can be cancelled soon, also in a large file. Raises OSError."""
    digest = new_digest()

    def hash_some() -> bool:
        for _ in range(HASHED_AT_ONCE // READ):
            if not (piece := file.read(READ)):
                return False
            digest.update(piece)
        return True

    with path.open("rb", buffering=0) as file:
        while await asyncio.to_thread(hash_some):
            pass
    return digest.hexdigest()


def total(pieces: Sequence[Slice]) -> int:
    """Bytes."""
    return sum(piece.length for piece in pieces)


def _allocate(fd: int, length: int) -> None:
    """Where the system can, a disk that is too small says so now."""
    if sys.platform == "linux":
        os.posix_fallocate(fd, 0, length)
    else:
        os.ftruncate(fd, length)


def _sync_folder(folder: Path) -> None:
    """A rename is on disk when its folder is. Windows opens no folders, and has its renames in a journal."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
