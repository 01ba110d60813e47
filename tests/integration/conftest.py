"""Fixtures of the integration tests: a plain session in the database of the test, a role, and immutable files."""

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.sources import Plain, made_role, plain_session


@pytest.fixture
async def plain(database: str) -> AsyncIterator[Plain]:
    """A connection for changes of the database during an export."""
    async with plain_session(database) as connection:
        yield connection


@pytest.fixture
async def role(plain: Plain) -> AsyncIterator[str]:
    """The name of a role that may only connect to the database, and for which the policies of tables hold."""
    async with made_role(plain) as name:
        yield name


@pytest.fixture
def immutable() -> Iterator[Callable[[Path, bool], None]]:
    """Makes a folder or a file immutable, also for root, and reverts it."""
    changed: set[Path] = set()

    def change(path: Path, lasting: bool) -> None:
        sign = "+" if lasting else "-"
        done = subprocess.run(["chattr", f"{sign}i", path], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this file system knows no immutable files: {done.stderr.strip()}")
        (changed.add if lasting else changed.discard)(path)

    yield change
    for path in list(changed):
        change(path, False)
