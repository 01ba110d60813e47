"""The folder of spools: names, opening for reading, sweeping."""

import os
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from streamer.errors import StartError
from streamer.spool.spool import Spool

SUFFIX = ".csv"


class SpoolDirectory:
    def __init__(self, path: Path, executor: Executor) -> None:
        self._path = path
        self._executor = executor

    def prepare(self) -> None:
        """Makes sure that spools can be written here. Raises StartError."""
        probe = self._path / f".probe-{os.getpid()}"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StartError(f"EXPORT_STORAGE_PATH: cannot write to {self._path}: {error.strerror}") from error

    def create(self, export_id: UUID) -> Spool:
        """A spool that is not open yet: it can be followed, and has no file."""
        return Spool(self.file_of(export_id), self._executor)

    def open(self, export_id: UUID, length: int) -> BinaryIO:
        """A file object of one's own on a sealed spool of `length` bytes.

        Raises FileNotFoundError if it has been removed, or is not what was sealed.
        """
        file = self.file_of(export_id).open("rb", buffering=0)
        if os.fstat(file.fileno()).st_size != length:
            file.close()
            raise FileNotFoundError(f"{file.name} has not the {length} bytes it was sealed with")
        return file

    def remove(self, export_id: UUID) -> None:
        """Whoever has the file open reads it to its end."""
        self.file_of(export_id).unlink(missing_ok=True)

    def export_ids(self) -> set[UUID]:
        """The exports that have a file here."""
        return {found for path in self._path.glob(f"*{SUFFIX}") if (found := _export_id(path)) is not None}

    def file_of(self, export_id: UUID) -> Path:
        return self._path / f"{export_id}{SUFFIX}"


def _export_id(path: Path) -> UUID | None:
    """None for a file that is not ours: it is never touched."""
    try:
        export_id = UUID(path.stem)
    except ValueError:
        return None
    return export_id if str(export_id) == path.stem else None
