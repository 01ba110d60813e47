"""How the C library hands out memory to the threads of the server.

By default glibc makes the heap of a server grow for hours, though as much is freed as is allocated:

* It gives threads arenas of their own, up to eight for each core. What is freed in one of them is not used by another
  and is seldom given back to the system. With one arena, what one thread frees is used by the next.
* A large buffer has a mapping of its own, which goes back to the system when it is freed. But with the first that is
  freed, the size from which on a buffer counts as large rises to that of this one, up to 32 MB. From then on buffers
  are cut out of the heap, between small things that stay. So the size is fixed, below the 256 kB that asyncio
  allocates for each read of a socket: those are what the heap gets its holes from.
"""

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of <malloc.h>
LARGE = 128 * 1024  # bytes; where glibc begins


def keep_the_heap_small() -> None:
    """To be called before there are threads, which keep the arena that they have. Without glibc it does nothing."""
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "gnu_get_libc_version"):
        glibc.mallopt(M_ARENA_MAX, 1)
        glibc.mallopt(M_MMAP_THRESHOLD, LARGE)
