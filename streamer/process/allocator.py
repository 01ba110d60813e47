"""The parameters of glibc's memory allocator.

With the default parameters the heap of a server grows for hours, although it frees as much as it allocates:

* Threads have arenas of their own, up to eight for each core. Memory freed in one arena is not used by another, and is
  seldom returned to the system. With a single arena, memory freed by one thread is used by the next.
* A large buffer has a mapping of its own, which is returned to the system when it is freed. But when the first one is
  freed, the threshold for a large buffer rises to its size, up to 32 MB. From then on buffers are allocated in the
  heap, between small objects that stay. The threshold is therefore fixed, below the 256 kB that asyncio allocates for
  each read of a socket: those buffers fragment the heap. So do chunks of rows: with a threshold of 256 kB the kernel
  has fewer pages to clear, up to a fifth of the CPU of an export, and the heap grows by half a megabyte a minute.
"""

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of <malloc.h>
LARGE = 128 * 1024  # bytes; where glibc begins


def keep_the_heap_small() -> None:
    """Sets one arena and a fixed threshold; without effect on another C library.

    To be called before there are threads: a thread keeps its arena.
    """
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "gnu_get_libc_version"):
        glibc.mallopt(M_ARENA_MAX, 1)
        glibc.mallopt(M_MMAP_THRESHOLD, LARGE)
