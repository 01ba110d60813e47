"""The command as Windows would run it, as far as that can be had elsewhere: what is missing there is missing here.

It runs in a process of its own: `python -m tests.acceptance.windows pull …`. Its rules are those that the client could
break: no POSIX module, no event loop with signal handlers, no folder that is opened, nothing that is renamed, replaced
or removed while it is open, and msvcrt.locking for locks. Paths keep the form of this system.
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp  # noqa: F401 - the packages are imported as what they are here, before Windows begins
import click  # noqa: F401
import msgspec  # noqa: F401
import rich.progress
import rich.table  # noqa: F401
import tenacity  # noqa: F401

POSIX_MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "uvloop")
POSIX_NAMES = (
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "pread",
    "pwrite",
    "posix_fallocate",
    "posix_fadvise",
    "fchown",
)
POSIX_SIGNALS = ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGQUIT", "SIGTSTP")


def become_windows() -> None:
    sys.modules["msvcrt"] = _msvcrt()
    for name in POSIX_MODULES:
        sys.modules[name] = None  # type: ignore[assignment] # an import of it fails
    for owner, names in ((os, POSIX_NAMES), (signal, POSIX_SIGNALS)):
        for name in names:
            delattr(owner, name)
    setattr(asyncio.SelectorEventLoop, "add_signal_handler", _no_signal_handler)  # noqa: B010
    os.open = _no_folder(os.open)
    for name in ("rename", "replace", "unlink", "remove"):
        setattr(os, name, _only_closed(getattr(os, name)))
    sys.platform = "win32"


def _msvcrt() -> ModuleType:
    module = ModuleType("msvcrt")

    def locking(fd: int, mode: int, count: int) -> None:
        assert (mode, count) == (2, 1)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    module.LK_NBLCK = 2  # type: ignore[attr-defined]
    module.locking = locking  # type: ignore[attr-defined]
    return module


def _no_signal_handler(*arguments: object) -> None:
    raise NotImplementedError


def _no_folder(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):  # noqa: PTH112 - of all kinds of paths
            raise PermissionError(13, "Permission denied", path)
        return real(path, *arguments, **options)

    return opened


def _only_closed(real: Callable[..., None]) -> Callable[..., None]:
    def changed(*paths: Any, **options: Any) -> None:
        opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}  # noqa: PTH208
        for path in paths:
            if str(Path(path).resolve()) in opened:
                raise PermissionError(13, "The process cannot access the file because it is being used", path)
        real(*paths, **options)

    return changed


if __name__ == "__main__":
    become_windows()
    from streamer.cli import main

    main(prog_name="streamer")
