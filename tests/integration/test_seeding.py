"""The seeds as the demo runs them: in batches, and continued after an interruption."""

import pytest

from streamer.demo import SEEDS, _seed
from tests import seeds
from tests.conftest import connected
from tests.exporting import sha256
from tests.integration.sources import copied, plain_session

ROWS = 5_000
INDEXES = "SELECT count(*) FROM pg_index WHERE indrelid = 'users'::regclass AND indisvalid"


@pytest.mark.parametrize("present", [None, 0, 3_000, ROWS], ids=str)
async def test_interrupted_seeding_continues_where_it_stopped(database: str, present: int | None) -> None:
    async with connected(database) as connection:
        if present is not None:
            await connection.execute((SEEDS / "01_schema.sql").read_text())
            await connection.execute("SELECT set_config('seed.rows', $1, false)", str(present))
            await connection.execute((SEEDS / "02_users.sql").read_text())
        await _seed(database, ROWS)
        assert await connection.fetchval(INDEXES) == 5
    async with plain_session(database) as plain:
        assert sha256(await copied(plain, "TABLE users")) == sha256(seeds.csv_bytes(seeds.rows(ROWS)))


async def test_extended_table_is_in_order_again(database: str) -> None:
    await _seed(database, ROWS // 2)
    await _seed(database, ROWS)
    async with connected(database) as connection:
        numbers = [row["id"] for row in await connection.fetch("SELECT id FROM users")]
    assert numbers == list(range(1, ROWS + 1))
