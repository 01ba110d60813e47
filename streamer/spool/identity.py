"""The identity of a folder of spools: which exports table it belongs to.

A folder holds the files of one exports table. A server of another table would remove them as garbage, so the folder
names its table in a file, `.identity`, and a server of any other table does not start on it. The file also names the
folder itself: several servers may share a table and have folders of their own, and each maintains the exports in its
own folder.
"""

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

NAME = ".identity"
UNNAMED = ".identity-"  # the prefix of the name of a file that is still being written
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """`store` is the id of the exports table, `folder` that of the folder."""

    store: UUID
    folder: UUID


def establish(path: Path, wanted: Identity) -> Identity:
    """Returns the identity of the folder at `path`, which becomes `wanted` if it has none yet.

    Several servers that start at once in a new folder get the same identity. Raises OSError, and ValueError if the file
    is damaged.
    """
    for _ in range(ATTEMPTS):
        if (path / NAME).exists():
            break
        with suppress(FileNotFoundError):  # a starting server removed the unnamed file as stale
            _write(path, wanted)
    return _read(path / NAME)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable if the file system supports that (fsync(2): EINVAL). Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _write(path: Path, identity: Identity) -> None:
    """Gives the file its name once it is whole; never replaces a file of that name."""
    unnamed = path / f"{UNNAMED}{uuid4()}"
    try:
        with unnamed.open("x") as file:
            json.dump({"store": str(identity.store), "folder": str(identity.folder)}, file)
            file.flush()
            os.fsync(file.fileno())
        (path / NAME).hardlink_to(unnamed)
    except FileExistsError:
        pass  # another server was faster
    finally:
        unnamed.unlink(missing_ok=True)
    sync_folder(path)


def _read(file: Path) -> Identity:
    try:
        found = json.loads(file.read_bytes())
        return Identity(UUID(found["store"]), UUID(found["folder"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is damaged") from error
