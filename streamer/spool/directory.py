"""The folder of spools: its identity and locks, free space, opening files for reading, removing them.

An export has one file in each coding. The files of one export have its id as their name, and differ in their suffix.

The folder belongs to one exports table, which its file `.identity` names. The bytes of all spools are counted from time
to time, and updated by the bytes that this process writes and removes: a folder may hold many files.

A file that cannot be removed is no failure of the caller, whose row says already that the export is gone. It is kept in
`undeletable`, and removing it is tried again.
"""

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from streamer.coding import Coding
from streamer.errors import StartError, cannot_write
from streamer.spool import servers
from streamer.spool.file import ASIDE, close_reader
from streamer.spool.identity import NAME, UNNAMED, Identity, establish
from streamer.spool.names import SUFFIXES, SpoolName
from streamer.spool.space import RECOUNT, Shortage, UsedSpace
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume, WriteLimits

log = logging.getLogger(__name__)

PROBE = ".probe"

SCANNING, REMOVING, HASHING = 2, 2, 2  # threads
HASH_PIECE = 8 * 1024 * 1024  # bytes hashed before the thread hashes another file
HASH_BUFFER = 64 * 1024  # bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies a version of a file: it changes when the file is replaced or written to."""

    inode: int
    size: int
    modified: int  # ns

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Threads:
    """Each kind of work that waits for the disk has threads of its own.

    No export waits for a file that is hashed or removed, and no scan of the folder waits for either.
    """

    writing: Executor  # the caller's; writes spools
    scanning: Executor = field(default_factory=lambda: ThreadPoolExecutor(SCANNING, "scan"))
    removing: Executor = field(default_factory=lambda: ThreadPoolExecutor(REMOVING, "remove"))
    hashing: Executor = field(default_factory=lambda: ThreadPoolExecutor(HASHING, "hash"))

    def shutdown(self) -> None:
        for threads in (self.scanning, self.removing, self.hashing):
            threads.shutdown()


class SpoolDirectory:
    """A folder of spools, which the threads of `writing` write.

    `max_bytes` is the limit for all spools together, None without one; `reserve` bytes of the disk stay free. The
    spools are counted again after `recount` seconds.
    """

    def __init__(
        self,
        path: Path,
        writing: Executor,
        *,
        max_bytes: int | None = None,
        reserve: int = 0,
        recount: float = RECOUNT,
        limits: WriteLimits | None = None,
    ) -> None:
        self._path = path
        self._threads = _Threads(writing)
        self._reserve = reserve
        self._limits = limits or WriteLimits()
        self._identity: Identity | None = None
        self._relock: Callable[[], None] | None = None
        self._spools: WeakValueDictionary[SpoolName, Spool] = WeakValueDictionary()
        self._space = UsedSpace(max_bytes, recount)
        self.undeletable: set[SpoolName] = set()

    def close(self) -> None:
        """Returns when its threads have ended their work. Hashing must have been cancelled."""
        self._threads.shutdown()

    def prepare(self) -> None:
        """Creates the folder if need be, and removes temporary files. Raises StartError if it cannot be written."""
        probe = self._path / PROBE
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)  # another server may be starting, too
            for prefix in (ASIDE, UNNAMED):
                for stale in self._path.glob(f"{prefix}*"):  # of a process that was killed
                    stale.unlink(missing_ok=True)
            self._warn_if_disk_is_small()
        except OSError as error:
            sentence = cannot_write(self._path, error, "choose another folder")
            raise StartError(f"EXPORT_STORAGE_PATH: {sentence}") from error

    def _warn_if_disk_is_small(self) -> None:
        """Logs a warning if exports are refused even when every completed one has been removed. Raises OSError."""
        free, (used, _) = _free(os.statvfs(self._path)), self._scan()
        if self._reserve and free + used <= self._reserve:
            log.warning(
                "EXPORT_STORAGE_PATH: the disk of %s has %d MB free, of which SPOOL_DISK_RESERVE keeps %d MB:"
                " every export is refused (507) until there is more room or less reserve",
                *(self._path, (free + used) >> 20, self._reserve >> 20),
            )

    def claim(self, store: UUID) -> None:
        """Assigns the folder to this exports table. Raises StartError if it belongs to another."""
        try:
            found = establish(self._path, Identity(store, uuid4()))
        except (OSError, ValueError) as error:
            raise StartError(
                f"EXPORT_STORAGE_PATH: {self._path} has no identity: {error}; choose another folder"
            ) from error
        if found.store != store:
            raise StartError(
                f"EXPORT_STORAGE_PATH: {self._path} holds the exports of another database; choose another folder"
                f" (or remove {self._path / NAME}, if that database no longer exists)"
            )
        self._identity = found

    @property
    def id(self) -> UUID:
        """The id of this folder in the rows of its exports."""
        assert self._identity is not None, "the folder has not been claimed"
        return self._identity.folder

    @contextmanager
    def alive(self, server_id: UUID) -> Iterator[None]:
        """Shows the other servers of this folder that this one is alive, while the context is open.

        Raises StartError if files cannot be locked.
        """
        with ExitStack() as stack:
            try:
                self._relock = stack.enter_context(servers.alive(self._path, server_id))
            except OSError as error:
                raise StartError(
                    f"EXPORT_STORAGE_PATH: cannot lock a file in {self._path}: {error.strerror}; choose a folder whose"
                    " file system has locks"
                ) from error
            yield

    def dead_servers(self) -> AbstractContextManager[list[UUID]]:
        """The servers of this folder that have died; they are forgotten when the context is left without an error."""
        return servers.dead_servers(self._path)

    def restore(self) -> None:
        """Creates the folder again if it was deleted while the server runs. Raises OSError."""
        if self._identity is None or (self._path / NAME).exists():
            return
        log.error("the folder %s was deleted: it is created again", self._path)
        self._path.mkdir(parents=True, exist_ok=True)
        establish(self._path, self._identity)
        if self._relock is not None:
            self._relock()

    def create(
        self,
        export_id: UUID,
        ensure_room: Callable[[], Awaitable[None]],
        coding: Coding = Coding.IDENTITY,
        *,
        limits: WriteLimits | None = None,
    ) -> Spool:
        """Returns a spool that is not open yet: it can be followed, and has no file.

        `ensure_room` is awaited while the spool grows, and raises ExportFailure if there is no room. `limits` are those
        of its writer, by default those of the folder.
        """
        volume = Volume(
            self._threads.writing,
            self._threads.removing,
            ensure_room,
            is_short=self._disk_is_short,
            grow=self._space.grow,
            limits=limits or self._limits,
        )
        spool = Spool(self.file_of(export_id, coding), volume)
        self._spools[SpoolName(export_id, coding)] = spool
        return spool

    async def shortage(self, *, recount: bool = False) -> Shortage:
        """Returns the space to free before another byte may be written. Raises OSError."""
        if recount or self._space.is_stale:
            await self.spools()
        disk = await _in_thread(self._threads.scanning, self._disk)
        return Shortage(
            limit=self._space.excess,
            disk=max(0, self._reserve + 1 - _free(disk)),
            files=1 if disk.f_files and not disk.f_favail else 0,  # some file systems have no number of files
        )

    @property
    def used(self) -> int:
        """The bytes of all spools, as last counted and updated since."""
        return self._space.bytes

    @property
    def written(self) -> int:
        """The bytes that this process has written to spools since it started."""
        return self._space.written

    async def spools(self) -> dict[SpoolName, int]:
        """Counts all spools, and returns their sizes in bytes. Raises OSError."""
        removed = self._space.removed
        used, spools = await _in_thread(self._threads.scanning, self._scan)
        self._space.set_counted(used, removed_before=removed)
        self.undeletable.intersection_update(spools)  # others may have removed them
        return spools

    async def sizes(self, names: Collection[SpoolName]) -> list[int | None]:
        """Returns the sizes of these files in bytes, None where there is none."""
        return await _in_thread(self._threads.scanning, lambda: [_size(self._path / name.file_name) for name in names])

    def open(self, export_id: UUID, length: int, coding: Coding = Coding.IDENTITY) -> BinaryIO:
        """Opens a sealed spool of `length` bytes.

        Raises FileNotFoundError if it was removed, or has another length.
        """
        with ExitStack() as stack:
            file = stack.enter_context(self.file_of(export_id, coding).open("rb", buffering=0))
            if os.fstat(file.fileno()).st_size != length:
                raise FileNotFoundError(f"{file.name} does not have the {length} bytes that it was completed with")
            stack.pop_all()
        return file

    def close_reader(self, file: BinaryIO) -> None:
        """Closes a file object that `open` returned."""
        close_reader(file, self._threads.removing)

    def stamp(self, export_id: UUID, coding: Coding = Coding.IDENTITY) -> Stamp:
        """Returns the present version of the file. Raises OSError."""
        return Stamp.of(self.file_of(export_id, coding).stat())

    async def sha256(self, export_id: UUID, coding: Coding = Coding.IDENTITY) -> bytes:
        """Returns the digest of the file's present bytes. Raises OSError.

        Files that are hashed at the same time are hashed in pieces by turns; a cancelled call stops after its piece.
        """
        digest, offset, file = hashlib.sha256(), 0, self.file_of(export_id, coding)
        while read := await _in_thread(self._threads.hashing, partial(_hash_piece, file, offset, digest)):
            offset += read
        return digest.digest()

    async def remove(self, *export_ids: UUID) -> list[int]:
        """Removes all files of these exports; otherwise as `remove_files`."""
        return await self.remove_files([SpoolName(export_id, coding) for export_id in export_ids for coding in Coding])

    async def remove_files(self, names: Sequence[SpoolName]) -> list[int]:
        """Removes files, and returns the sizes of the removed ones; open readers still read to the end.

        A file that cannot be removed is logged, and is in `undeletable`.
        """
        removed = await _in_thread(self._threads.removing, lambda: [self._remove(name) for name in names])
        sizes = [size for size in removed if size is not None]
        self._space.grow(-sum(sizes))
        return sizes

    def is_written(self, name: SpoolName) -> bool:
        """Whether this process writes the file, or is about to."""
        spool = self._spools.get(name)
        return spool is not None and not spool.ended

    def file_of(self, export_id: UUID, coding: Coding = Coding.IDENTITY) -> Path:
        return self._path / SpoolName(export_id, coding).file_name

    def _remove(self, name: SpoolName) -> int | None:
        file = self._path / name.file_name
        try:
            size = file.stat().st_size
            file.unlink()
        except FileNotFoundError:
            size = None
        except OSError as error:
            if name not in self.undeletable:
                log.warning("%s cannot be removed: %s", file, error)
            self.undeletable.add(name)
            return None
        self.undeletable.discard(name)
        return size

    def _disk_is_short(self) -> bool:
        """In a writing thread: whether the reserve is reached. Without a reserve a full disk fails the write."""
        if not self._reserve:
            return False
        with suppress(OSError):
            return _free(os.statvfs(self._path)) <= self._reserve
        return True  # `ensure_room` then decides

    def _disk(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._path)
        except FileNotFoundError:
            self.restore()
            return os.statvfs(self._path)

    def _scan(self) -> tuple[int, dict[SpoolName, int]]:
        """The bytes of all files with the suffix of spools, those of others included, and the sizes of the spools."""
        used, spools = 0, {}
        with suppress(FileNotFoundError), os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIXES) and (size := _size(entry)) is not None:
                    used += size
                    if name := SpoolName.parse(entry.name):
                        spools[name] = size
        return used, spools


async def _in_thread(threads: Executor, act: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, act)


def _hash_piece(path: Path, offset: int, digest: "hashlib._Hash") -> int:
    """In a thread: hashes from `offset` on, and returns the number of bytes; 0 at the end.

    It opens the file for itself, so that the call that waits for it may be cancelled.
    """
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


def _size(file: Path | os.DirEntry[str]) -> int | None:
    """None if there is no regular file."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
