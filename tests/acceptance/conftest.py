"""What the acceptance tests share: a server with an export that stands still where a test wants it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.held import LARGE, Held, gated_server, scratch_database


@pytest.fixture
async def held(postgres: str, tmp_path: Path) -> AsyncIterator[Held]:
    async with scratch_database(postgres) as database, gated_server(database, tmp_path / "spool", [LARGE.name]) as held:
        yield held
