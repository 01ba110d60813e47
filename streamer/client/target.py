"""Where a download is saved: the rules for its name, and what the file system says, as sentences.

A symbolic link is followed, also to a file that is not there yet: the link stays, and what it leads to is written.
`flaw_on_windows` is a rule of that system as a pure function, so that it can be tested everywhere.
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
def told(path: Path) -> Iterator[None]:
    """Raises LocalFileError, with a sentence about `path`, for what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(f"{_name(path)}: {error.strerror or error}") from error


def written(target: Path) -> Path:
    """The file that is written for `target`. Raises LocalFileError."""
    with told(target):
        found = Path(os.path.realpath(target)) if target.is_symlink() else target
        if found.is_symlink():
            raise LocalFileError(f"{_name(target)} is a symbolic link that leads to itself")
        return found


def part_of(target: Path) -> Path:
    """FILE.part, which lies where the file will be. Raises LocalFileError."""
    path = written(target)
    return path.with_name(f"{path.name}.part")


def in_the_way(target: Path) -> LocalFileError:
    return LocalFileError(f"{_name(target)} is there already; --force replaces it")


def check_place(target: Path) -> None:
    """Raises LocalFileError where no file can be, whatever the export is."""
    if sys.platform == "win32" and (flaw := flaw_on_windows(target.name)):
        raise LocalFileError(f"{_name(target)} cannot be the name of a file: {flaw}")
    with told(target):
        if not target.name or (_there(target) and not target.is_file()):
            raise LocalFileError(f"{_name(target)} is no regular file; -o - writes to standard output")
        folder = written(target).parent
        if not folder.is_dir():
            raise LocalFileError(f"{_name(folder)} is no folder")
        _there(part_of(target))


def flaw_on_windows(name: str) -> str | None:
    """Why a file cannot have this name on Windows; None if it can."""
    if found := RESERVED.search(name):
        return f"it has the character {ascii(found[0])[1:-1]}"
    if name.endswith((" ", ".")):
        return "it ends with a space or a dot"
    if found := DEVICE.match(name):
        return f"{found[1].upper()} is a device"
    return None


def _there(path: Path) -> bool:
    """As `exists`, which takes a name that no file can have for one that is free."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise LocalFileError(f"{_name(path)} cannot be the name of a file: {error}") from error
    return True


def _name(path: Path) -> str:
    return shown(str(path), MAX_NAME)
