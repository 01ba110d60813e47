"""The SHA-256 of a file while it is written: of the chunks as they come, or of bytes that are read back."""

import asyncio
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

from streamer.client.errors import LocalFileError

READ_SIZE = 1024 * 1024  # bytes
HASH_INTERVAL = 64 * READ_SIZE  # bytes between two chances to cancel


class Digest(Protocol):
    """A hash object of hashlib."""

    def update(self, content: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def new_digest() -> Digest:
    return hashlib.sha256()


async def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal. It can be cancelled every HASH_INTERVAL bytes. Raises OSError."""
    digest = new_digest()

    def hash_interval() -> bool:
        for _ in range(HASH_INTERVAL // READ_SIZE):
            if not (piece := file.read(READ_SIZE)):
                return False
            digest.update(piece)
        return True

    with path.open("rb", buffering=0) as file:
        while await asyncio.to_thread(hash_interval):
            pass
    return digest.hexdigest()


class FileHasher:
    """Hashes the first `length` bytes of a file in a thread of its own, which works in the order of the calls."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._file: IO[bytes] = path.open("rb", buffering=0)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._digest = new_digest()
        self.length = 0  # bytes

    @property
    def sha256(self) -> str:
        """Of the first `length` bytes, in hexadecimal."""
        return self._digest.hexdigest()

    def update(self, chunk: bytes) -> Future[None]:
        """Hashes the next bytes, which the file need not have yet."""
        self.length += len(chunk)
        return self._executor.submit(self._digest.update, chunk)

    def read_to(self, stop: int) -> Future[None]:
        """Hashes up to position `stop`, at most HASH_INTERVAL bytes. The future raises OSError and LocalFileError."""
        return self._executor.submit(self._read_to, min(self.length + HASH_INTERVAL, stop))

    def close(self) -> None:
        """Waits for the call that runs; calls that have not begun are cancelled."""
        self._executor.shutdown(cancel_futures=True)
        self._file.close()

    def _read_to(self, stop: int) -> None:
        while self.length < stop:
            self._file.seek(self.length)
            piece = self._file.read(min(READ_SIZE, stop - self.length))
            if not piece:
                raise LocalFileError(f"{self._path} has become shorter: another program is writing it")
            self._digest.update(piece)
            self.length += len(piece)
