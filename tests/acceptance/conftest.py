"""What the acceptance tests share: a server with an export that stands still where a test wants it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from streamer.source import fetching
from tests.acceptance.gated import Gated, serving_gated
from tests.conftest import Serve


@pytest.fixture
async def gated(
    database: str, serve: Serve, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gated]:
    # Pages of one size, so that the rows before a gate fill theirs exactly.
    monkeypatch.setattr(fetching, "FIRST_ROWS", fetching.MOST_ROWS)
    monkeypatch.setattr(fetching, "PAGE_TARGET", 1 << 30)
    async with serving_gated(database, serve, session) as gated:
        yield gated
