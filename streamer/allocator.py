"""How the C library hands out memory to the threads of the server.

glibc gives threads arenas of their own, up to eight for each core. What is freed in one of them is not used by another
and is seldom given back to the system, so a process whose threads come and go with large buffers grows for hours, until
each arena has seen its own worst moment. With one arena what one thread frees is used by the next.

The arenas exist for threads that allocate at the same time. Here a thread works on large pieces, outside of the lock of
the allocator, so there is nothing to win by them.
"""

import ctypes

M_ARENA_MAX = -8  # of <malloc.h>


def use_one_arena() -> None:
    """To be called before there are threads, which keep the arena that they have. Without glibc it does nothing."""
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "gnu_get_libc_version"):
        glibc.mallopt(M_ARENA_MAX, 1)
