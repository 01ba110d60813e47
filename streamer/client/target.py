"""The path of a download: the rules for its name, and errors of the file system as sentences.

A symbolic link is followed, also to a file that does not exist: the link stays, and the file that it names is written.
`windows_name_error` is a pure function, so that the rules of Windows can be tested on every system.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamer.client.errors import LocalFileError
from streamer.errors import shown

MAX_NAME = 200  # characters of a path that a sentence shows
# "Naming Files, Paths, and Namespaces" in the documentation of Windows
RESERVED = re.compile(r'[<>:"|?*\x00-\x1f]')
DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])[ ]*(\.|$)", re.IGNORECASE)


@contextmanager
def translating_os_errors(path: Path) -> Iterator[None]:
    """Raises LocalFileError, with a sentence about `path`, for an OSError."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(f"{_name(path)}: {error.strerror or error}") from error


def resolved(target: Path) -> Path:
    """Returns the file that is written for `target`. Raises LocalFileError."""
    with translating_os_errors(target):
        found = Path(os.path.realpath(target)) if target.is_symlink() else target
        if found.is_symlink():
            raise LocalFileError(f"{_name(target)} is a symbolic link that leads to itself")
        return found


def part_path(target: Path) -> Path:
    """Returns the path of FILE.part, in the folder of the file. Raises LocalFileError."""
    path = resolved(target)
    return path.with_name(f"{path.name}.part")


def file_exists_error(target: Path) -> LocalFileError:
    return LocalFileError(f"{_name(target)} exists already; --force replaces it")


def check_path(target: Path) -> None:
    """Raises LocalFileError for a path that cannot be written, whatever the export is."""
    if sys.platform == "win32" and (error := windows_name_error(target.name)):
        raise LocalFileError(f"{_name(target)} cannot be the name of a file: {error}")
    with translating_os_errors(target):
        if not target.name or (_exists(target) and not target.is_file()):
            raise LocalFileError(f"{_name(target)} is not a regular file; -o - writes to standard output")
        folder = resolved(target).parent
        if not folder.is_dir():
            raise LocalFileError(f"the folder {_name(folder)} does not exist")
        _exists(part_path(target))


def windows_name_error(name: str) -> str | None:
    """Returns why a file on Windows cannot have this name; None if it can."""
    if found := RESERVED.search(name):
        return f"it has the character {ascii(found[0])[1:-1]}"
    if name.endswith((" ", ".")):
        return "it ends with a space or a dot"
    if found := DEVICE.match(name):
        return f"{found[1].upper()} is a device"
    return None


def _exists(path: Path) -> bool:
    """Raises LocalFileError for a name that no file can have, for which `Path.exists` returns False."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise LocalFileError(f"{_name(path)} cannot be the name of a file: {error}") from error
    return True


def _name(path: Path) -> str:
    return shown(str(path), MAX_NAME)
