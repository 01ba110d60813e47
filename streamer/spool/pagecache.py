"""Checks for bytes in the page cache, and loading of missing ones, without blocking the event loop.

sendfile reads on the calling thread. A page that is not in the page cache would block the whole server until the disk
has answered, so a body sender on the event loop checks first, and lets a thread load missing pages.
"""

import os
from collections.abc import Iterator

SAMPLE = 256 * 1024  # bytes between two samples: the kernel loads and drops neighbouring pages together


def read_into_if_cached(fd: int, offset: int, buffer: bytearray | memoryview) -> bool:
    """Fills the buffer if all the bytes are in memory. Returns False if not, or if the file system cannot tell."""
    try:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
    except OSError:
        return False  # EAGAIN: not in memory; EOPNOTSUPP: unknown; a blocking read raises any other error


def read_if_cached(fd: int, offset: int, length: int) -> bytearray | None:
    """Returns the bytes if all of them are in memory. None if not, or if the file system cannot tell."""
    buffer = bytearray(length)
    return buffer if read_into_if_cached(fd, offset, buffer) else None


def is_cached(fd: int, offset: int, length: int) -> bool:
    """Whether every sample of the range is in memory."""
    return all(read_if_cached(fd, sample, 1) is not None for sample in _samples(offset, length))


def load(fd: int, offset: int, length: int) -> None:
    """Loads the range into memory. Blocks; belongs in a thread. Raises OSError."""
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
    for sample in _samples(offset, length):
        os.pread(fd, 1, sample)


def _samples(offset: int, length: int) -> Iterator[int]:
    yield from range(offset, offset + length - 1, SAMPLE)
    yield offset + length - 1
