"""The folder of spools: names, opening for reading, sweeping."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from streamer.errors import StartError
from streamer.spool import owners
from streamer.spool.spool import Spool

SUFFIX = ".csv"
PROBE = ".probe"


class SpoolDirectory:
    """`most` bytes may all spools have together, None without a limit; `reserve` bytes of the disk stay free."""

    def __init__(self, path: Path, executor: Executor, *, most: int | None = None, reserve: int = 0) -> None:
        self._path = path
        self._executor = executor
        self._most = most
        self._reserve = reserve

    def prepare(self) -> None:
        """Makes sure that spools can be written here. Raises StartError."""
        probe = self._path / PROBE
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)  # another server may be starting, too
        except OSError as error:
            raise StartError(f"EXPORT_STORAGE_PATH: cannot write to {self._path}: {error.strerror}") from error

    def alive(self, owner: UUID) -> AbstractContextManager[None]:
        """While the context is open, the other servers of this folder know that this one is alive."""
        return owners.alive(self._path, owner)

    def dead_owners(self) -> AbstractContextManager[list[UUID]]:
        """The servers of this folder that have died; forgotten once the context is left well."""
        return owners.dead_owners(self._path)

    def create(self, export_id: UUID, keep_room: Callable[[], Awaitable[None]]) -> Spool:
        """A spool that is not open yet: it can be followed, and has no file. It asks for room while it grows."""
        return Spool(self.file_of(export_id), self._executor, keep_room)

    async def has_room(self) -> bool:
        """Whether another byte may be written."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._measure)

    def _measure(self) -> bool:
        if shutil.disk_usage(self._path).free <= self._reserve:
            return False
        return self._most is None or sum(map(_size, self._path.glob(f"*{SUFFIX}"))) < self._most

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

    async def sha256(self, export_id: UUID) -> bytes:
        """The digest of what is in the file now. Raises OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, _sha256, self.file_of(export_id))

    def remove(self, export_id: UUID) -> None:
        """Whoever has the file open reads it to its end."""
        self.file_of(export_id).unlink(missing_ok=True)

    def export_ids(self) -> set[UUID]:
        """The exports that have a file here."""
        return {found for path in self._path.glob(f"*{SUFFIX}") if (found := _export_id(path)) is not None}

    def file_of(self, export_id: UUID) -> Path:
        return self._path / f"{export_id}{SUFFIX}"


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _export_id(path: Path) -> UUID | None:
    """None for a file that is not ours: it is never touched."""
    try:
        export_id = UUID(path.stem)
    except ValueError:
        return None
    return export_id if str(export_id) == path.stem else None
