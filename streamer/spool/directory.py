"""The folder of spools: whose it is, names, how much room there is, opening for reading, removing.

The folder belongs to one exports table, which its file `.identity` names. How many bytes all spools have is counted now
and then, and kept up to date in between by what this process writes and removes: a folder may hold many files.

A file that cannot be removed is no failure of the caller, whose row says already that it is gone. It is remembered in
`undeletable`, and removing it is tried again.
"""

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Collection, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import BinaryIO, TypeVar
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from streamer.errors import StartError
from streamer.spool import closing, servers
from streamer.spool.identity import NAME, UNNAMED, Identity, establish
from streamer.spool.spool import ASIDE, Spool

log = logging.getLogger(__name__)

SUFFIX = ".csv"
PROBE = ".probe"
RECOUNT = 10.0  # seconds after which the bytes of all spools are counted anew: other servers write here, too

LOOKING, REMOVING, HASHING = 2, 2, 2  # threads
HASH_PIECE = 8 * 1024 * 1024  # bytes hashed before another file has its turn
HASH_BUFFER = 64 * 1024  # bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shortage:
    """What has to be freed before another byte may be written: bytes below the limit, bytes of the disk, and files."""

    limit: int = 0
    disk: int = 0
    files: int = 0

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.files > 0

    @property
    def bytes(self) -> int:
        return max(self.limit, self.disk)

    def after(self, removed: Collection[int]) -> "Shortage":
        """What is left of it when files of these sizes are gone."""
        gone = sum(removed)
        return Shortage(max(0, self.limit - gone), max(0, self.disk - gone), max(0, self.files - len(removed)))


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file is replaced or written to."""

    inode: int
    size: int
    modified: int  # ns

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class SpoolDirectory:
    """`most` bytes may all spools have together, None without a limit; `reserve` bytes of the disk stay free.

    The threads of `executor` write spools. Whatever else can wait for the disk has threads of its own, each kind apart:
    no export waits for a file that is hashed or removed, and no question about room waits for either.
    """

    def __init__(self, path: Path, executor: Executor, *, most: int | None = None, reserve: int = 0) -> None:
        self._path = path
        self._executor = executor
        self._looking = ThreadPoolExecutor(LOOKING, "look")
        self._removing = ThreadPoolExecutor(REMOVING, "remove")
        self._hashing = ThreadPoolExecutor(HASHING, "hash")
        self._most = most
        self._reserve = reserve
        self._identity: Identity | None = None
        self._relock: Callable[[], None] | None = None
        self._spools: WeakValueDictionary[UUID, Spool] = WeakValueDictionary()
        self._used = 0  # bytes
        self._freed = 0  # bytes that this process has removed since it started
        self.written = 0  # bytes that this process has written to spools since it started
        self._counted_at: float | None = None
        self.undeletable: set[UUID] = set()

    def close(self) -> None:
        """Returns when its threads have ended what they do. Hashing must have been cancelled."""
        for threads in (self._looking, self._removing, self._hashing):
            threads.shutdown()

    def prepare(self) -> None:
        """Makes sure that spools can be written here. Raises StartError."""
        probe = self._path / PROBE
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)  # another server may be starting, too
            for beginning in (ASIDE, UNNAMED):
                for left in self._path.glob(f"{beginning}*"):  # by a process that was killed
                    left.unlink(missing_ok=True)
            self._warn_of_a_small_disk()
        except OSError as error:
            raise StartError(f"EXPORT_STORAGE_PATH: cannot write to {self._path}: {error.strerror}") from error

    def _warn_of_a_small_disk(self) -> None:
        """Where exports are refused even when all that are completed have made room. Raises OSError."""
        free, (used, _) = _free(os.statvfs(self._path)), self._scan()
        if self._reserve and free + used <= self._reserve:
            log.warning(
                "EXPORT_STORAGE_PATH: the disk of %s has %d MB free, of which SPOOL_DISK_RESERVE keeps %d MB:"
                " every export is refused (507) until there is more room or less reserve",
                *(self._path, (free + used) >> 20, self._reserve >> 20),
            )

    def claim(self, store: UUID) -> None:
        """Makes the folder that of this exports table. Raises StartError if it is another's."""
        try:
            found = establish(self._path, Identity(store, uuid4()))
        except (OSError, ValueError) as error:
            raise StartError(f"EXPORT_STORAGE_PATH: {self._path} has no identity: {error}") from error
        if found.store != store:
            raise StartError(
                f"EXPORT_STORAGE_PATH: {self._path} holds the exports of another database; choose another folder"
                f" (or remove {self._path / NAME}, if that database is no more)"
            )
        self._identity = found

    @property
    def id(self) -> UUID:
        """What rows call this folder."""
        assert self._identity is not None, "the folder has not been claimed"
        return self._identity.folder

    @contextmanager
    def alive(self, server_id: UUID) -> Iterator[None]:
        """While the context is open, the other servers of this folder know that this one is alive.

        Raises StartError where files cannot be locked.
        """
        with ExitStack() as stack:
            try:
                self._relock = stack.enter_context(servers.alive(self._path, server_id))
            except OSError as error:
                raise StartError(
                    f"EXPORT_STORAGE_PATH: cannot lock a file in {self._path}: {error.strerror}"
                ) from error
            yield

    def dead_servers(self) -> AbstractContextManager[list[UUID]]:
        """The servers of this folder that have died; forgotten once the context is left well."""
        return servers.dead_servers(self._path)

    def restore(self) -> None:
        """Makes the folder anew if it was deleted while the server runs. Raises OSError."""
        if self._identity is None or (self._path / NAME).exists():
            return
        log.error("the folder %s was deleted: it is made anew", self._path)
        self._path.mkdir(parents=True, exist_ok=True)
        establish(self._path, self._identity)
        if self._relock is not None:
            self._relock()

    def create(self, export_id: UUID, keep_room: Callable[[], Awaitable[None]]) -> Spool:
        """A spool that is not open yet: it can be followed, and has no file. It asks for room while it grows."""
        spool = Spool(
            self.file_of(export_id),
            self._executor,
            keep_room,
            self._grow,
            disk_is_short=self._disk_is_short,
            removing=self._removing,
        )
        self._spools[export_id] = spool
        return spool

    async def shortage(self, *, recount: bool = False) -> Shortage:
        """What has to be freed before another byte may be written. Raises OSError."""
        if recount or (self._most is not None and self._count_is_old()):
            await self.spools()
        disk = await self._in_thread(self._looking, self._disk)
        return Shortage(
            limit=0 if self._most is None else max(0, self._used + 1 - self._most),
            disk=max(0, self._reserve + 1 - _free(disk)),
            files=1 if disk.f_files and not disk.f_favail else 0,  # some file systems have no number of files
        )

    @property
    def used(self) -> int:
        """The bytes of all spools, as far as is known."""
        return self._used

    async def spools(self) -> dict[UUID, int]:
        """The sizes of all spools, in bytes, for each export that has one here. Raises OSError."""
        freed = self._freed
        used, spools = await self._in_thread(self._looking, self._scan)
        # The scan may have counted what was removed meanwhile. A figure that is too high would evict without need.
        self._used = max(0, used - (self._freed - freed))
        self._counted_at = monotonic()
        self.undeletable.intersection_update(spools)  # other hands may have removed them
        return spools

    async def sizes(self, export_ids: Collection[UUID]) -> list[int | None]:
        """The sizes of their files, None where there is none."""
        return await self._in_thread(
            self._looking, lambda: [_size(self.file_of(export_id)) for export_id in export_ids]
        )

    def open(self, export_id: UUID, length: int) -> BinaryIO:
        """A file object of one's own on a sealed spool of `length` bytes.

        Raises FileNotFoundError if it has been removed, or is not what was sealed.
        """
        with ExitStack() as stack:
            file = stack.enter_context(self.file_of(export_id).open("rb", buffering=0))
            if os.fstat(file.fileno()).st_size != length:
                raise FileNotFoundError(f"{file.name} has not the {length} bytes it was sealed with")
            stack.pop_all()
        return file

    def close_reader(self, file: BinaryIO) -> None:
        """Closes what `open` gave."""
        closing.close(file, self._removing)

    def stamp(self, export_id: UUID) -> Stamp:
        """Raises OSError."""
        return Stamp.of(self.file_of(export_id).stat())

    async def sha256(self, export_id: UUID) -> bytes:
        """The digest of what is in the file now. Raises OSError.

        Files that are hashed at once take turns, and a cancelled one stops at its next turn.
        """
        digest, offset, file = hashlib.sha256(), 0, self.file_of(export_id)
        while read := await self._in_thread(self._hashing, partial(_hash_piece, file, offset, digest)):
            offset += read
        return digest.digest()

    async def remove(self, *export_ids: UUID) -> list[int]:
        """Removes their files; readers that have one open read it to its end. Gives the sizes of those removed.

        What cannot be removed is logged, and is in `undeletable`.
        """
        removed = await self._in_thread(self._removing, lambda: [self._remove(export_id) for export_id in export_ids])
        sizes = [size for size in removed if size is not None]
        self._grow(-sum(sizes))
        return sizes

    def is_written(self, export_id: UUID) -> bool:
        """Whether this process is writing it, or is about to."""
        spool = self._spools.get(export_id)
        return spool is not None and not spool.ended

    def file_of(self, export_id: UUID) -> Path:
        return self._path / f"{export_id}{SUFFIX}"

    def _remove(self, export_id: UUID) -> int | None:
        file = self.file_of(export_id)
        try:
            size = file.stat().st_size
            file.unlink()
        except FileNotFoundError:
            size = None
        except OSError as error:
            if export_id not in self.undeletable:
                log.warning("the file of export %s cannot be removed: %s", export_id, error)
            self.undeletable.add(export_id)
            return None
        self.undeletable.discard(export_id)
        return size

    def _disk_is_short(self) -> bool:
        """In a thread that writes: whether the reserve is reached. Without one the disk itself says when it is full."""
        if not self._reserve:
            return False
        with suppress(OSError):
            return _free(os.statvfs(self._path)) <= self._reserve
        return True  # who is asked for room then knows better

    def _disk(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._path)
        except FileNotFoundError:
            self.restore()
            return os.statvfs(self._path)

    def _scan(self) -> tuple[int, dict[UUID, int]]:
        """The bytes of all files with the suffix of spools, also of such as are not ours, and the spools."""
        used, spools = 0, {}
        with suppress(FileNotFoundError), os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and (size := _size(Path(entry.path))) is not None:
                    used += size
                    if (export_id := _export_id(Path(entry.name))) is not None:
                        spools[export_id] = size
        return used, spools

    def _grow(self, size: int) -> None:
        self._used = max(0, self._used + size)
        self._freed += max(0, -size)
        self.written += max(0, size)

    def _count_is_old(self) -> bool:
        return self._counted_at is None or monotonic() - self._counted_at > RECOUNT

    async def _in_thread(self, threads: Executor, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, act)


def _hash_piece(path: Path, offset: int, digest: "hashlib._Hash") -> int:
    """In a thread: the bytes that were hashed, from `offset` on; 0 at the end. It has the file to itself: whoever
    waits may leave."""
    buffer = memoryview(bytearray(HASH_BUFFER))
    hashed = 0
    with path.open("rb", buffering=0) as file:
        while hashed < HASH_PIECE and (read := os.preadv(file.fileno(), [buffer], offset + hashed)):
            digest.update(buffer[:read])
            hashed += read
    return hashed


def _free(disk: os.statvfs_result) -> int:
    """Bytes that this process may still write."""
    return disk.f_bavail * disk.f_frsize


def _size(path: Path) -> int | None:
    """None if it is no file, or gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _export_id(path: Path) -> UUID | None:
    """None for a file that is not ours: it is never touched."""
    try:
        export_id = UUID(path.stem)
    except ValueError:
        return None
    return export_id if str(export_id) == path.stem else None
