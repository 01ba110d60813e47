"""The settings of an export's session."""

import pytest

from streamer.source.session.snapshot import open_snapshot
from tests.conftest import connected
from tests.integration.sources import pooled


async def test_session_of_an_export_does_not_compile_its_plan(database: str) -> None:
    """Compiling takes longer than the first rows: the header would be late, and the export is bound by output."""
    async with connected(database) as connection:
        if await connection.fetchval("SHOW jit") != "on":
            pytest.skip("this server does not compile plans by default")
    async with pooled(database) as pool, open_snapshot(pool, role=None) as snapshot:
        assert await snapshot.connection.fetchval("SELECT current_setting('jit')") == "off"
