"""The settings of an export's session."""

from streamer.source.session.snapshot import open_snapshot
from tests.conftest import connected
from tests.integration.sources import pooled


async def test_session_of_an_export_does_not_compile_its_plan(database: str) -> None:
    """Compiling takes longer than the first rows: the header would be late, and the export is bound by output."""
    async with connected(database) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET jit = on")
    async with pooled(database) as pool, open_snapshot(pool, role=None) as snapshot:
        assert await snapshot.connection.fetchval("SELECT current_setting('jit')") == "off"
