"""What the tests of the source share: a session beside an export, in whatever database the test has."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.sources import Plain, plain_session


@pytest.fixture
async def plain(database: str) -> AsyncIterator[Plain]:
    """What happens to the database beside an export."""
    async with plain_session(database) as connection:
        yield connection
