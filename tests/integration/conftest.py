"""Shared by the tests of the source: a plain session in the database of the test."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.sources import Plain, plain_session


@pytest.fixture
async def plain(database: str) -> AsyncIterator[Plain]:
    """A connection for changes of the database during an export."""
    async with plain_session(database) as connection:
        yield connection
