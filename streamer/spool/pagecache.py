"""What of a file is in memory, asked and arranged without holding the event loop.

sendfile reads on the thread that calls it. A page that is not in the page cache would stop the whole server until the
disk has answered, so whoever sends from the event loop asks first, and lets a thread load what is missing.
"""

import os
from collections.abc import Iterator

SAMPLE = 256 * 1024  # bytes from one look to the next: the kernel loads and drops neighbours together


def read_into_if_cached(fd: int, offset: int, buffer: bytearray | memoryview) -> bool:
    """Fills the buffer, if all the bytes are in memory. False if not, or if the file system cannot tell."""
    try:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
    except OSError:
        return False  # EAGAIN: not in memory; EOPNOTSUPP: nobody knows; whoever reads in earnest meets any other


def read_if_cached(fd: int, offset: int, length: int) -> bytearray | None:
    """The bytes, if all of them are in memory. None if not, or if the file system cannot tell."""
    buffer = bytearray(length)
    return buffer if read_into_if_cached(fd, offset, buffer) else None


def is_cached(fd: int, offset: int, length: int) -> bool:
    """Whether the range is in memory, as far as samples tell."""
    return all(read_if_cached(fd, sample, 1) is not None for sample in _samples(offset, length))


def load(fd: int, offset: int, length: int) -> None:
    """Brings the range into memory; waits for the disk, so it belongs in a thread. Raises OSError."""
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
    for sample in _samples(offset, length):
        os.pread(fd, 1, sample)


def _samples(offset: int, length: int) -> Iterator[int]:
    yield from range(offset, offset + length - 1, SAMPLE)
    yield offset + length - 1
