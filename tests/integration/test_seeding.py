"""The seeds as the demo runs them: batch by batch, and on from wherever they were interrupted."""

import pytest

from streamer.demo import SEEDS, _seed
from tests import seeds
from tests.conftest import connected
from tests.exporting import sha256
from tests.integration.sources import copied, plain_session

ROWS = 5_000
INDEXES = "SELECT count(*) FROM pg_index WHERE indrelid = 'users'::regclass AND indisvalid"


@pytest.mark.parametrize("present", [None, 0, 3_000, ROWS], ids=str)
async def test_seeding_goes_on_where_it_was_interrupted(database: str, present: int | None) -> None:
    async with connected(database) as connection:
        if present is not None:
            await connection.execute((SEEDS / "01_schema.sql").read_text())
            await connection.execute("SELECT set_config('seed.rows', $1, false)", str(present))
            await connection.execute((SEEDS / "02_users.sql").read_text())
        await _seed(database, ROWS)
        assert await connection.fetchval(INDEXES) == 5
    async with plain_session(database) as plain:
        assert sha256(await copied(plain, "TABLE users")) == sha256(seeds.csv_bytes(seeds.rows(ROWS)))


async def test_a_table_that_is_extended_is_in_order_again(database: str) -> None:
    await _seed(database, ROWS // 2)
    await _seed(database, ROWS)
    async with connected(database) as connection:
        numbers = [row["id"] for row in await connection.fetch("SELECT id FROM users")]
    assert numbers == list(range(1, ROWS + 1))
