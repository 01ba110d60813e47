"""Scenario 7: 200 exports one after another leave nothing behind."""

import itertools
from pathlib import Path

import pytest

from streamer.spool.servers import PREFIX
from tests.conftest import connected
from tests.exporting import create
from tests.memory.clients import compare, crowd, sha256_of
from tests.memory.confined import MB
from tests.memory.conftest import Report, Rig
from tests.memory.crowd import Order
from tests.polling import until

EXPORTS = 200
WARM = 20  # exports after which memory is looked at for the first time
GROWTH = 1.05
ROWS = 100_000
MEDIUM = f"CREATE TABLE medium AS SELECT generate_series(1, {ROWS}) AS id, repeat('x', 90) AS filler"
KINDS = (
    {"dataset": "medium"},  # read in blocks
    {"dataset": "medium", "id__lte": "50000"},
    {"dataset": "medium", "columns": "filler,id", "delimiter": "tab"},
    {"dataset": "nothing"},  # a view
    {"dataset": "broken"},  # fails after some rows
)
VIEWS = """
    CREATE VIEW nothing AS SELECT * FROM medium WHERE id < 0;
    CREATE VIEW broken AS SELECT 1 / (id - 60000) AS id, filler FROM medium
"""


@pytest.mark.memory
@pytest.mark.timeout(900)
async def test_two_hundred_exports(rig: Rig, used: Report) -> None:
    async with connected(rig.scratch) as connection:
        await connection.execute(MEDIUM)
        await connection.execute(VIEWS)
        await connection.execute("VACUUM ANALYZE medium")
    sizes: list[int] = []
    async with rig.start(source=rig.scratch, DATASETS="medium,nothing,broken") as server:
        files: list[str] = []
        for number, kind in zip(range(EXPORTS), itertools.cycle(KINDS), strict=False):
            export = await create(rig.session, server.url, **kind)
            if kind["dataset"] == "broken":
                await export.until("failed")
            else:
                orders = [Order(path=export.path, gzip=gzip) for gzip in (False, True)]
                async with crowd(server, orders) as followers:
                    found = await followers.ended()
                status = await export.until("completed")
                assert status["sha256"] == sha256_of(rig.spool / export.file_name)
                compare(rig.spool / export.file_name, found)
                async with crowd(server, orders) as followers:  # once more, now that it is sealed
                    compare(rig.spool / export.file_name, await followers.ended())
            await export.delete()
            sizes.append(server.rss())
            if number + 1 == WARM:
                files = server.open_files()
        await until(lambda: _no_more(server.open_files(), files, rig.spool), "the files are closed")
        growth = sizes[-1] / sizes[WARM - 1]
        used.add(
            f"7. {EXPORTS} exports in a row",
            server.used(),
            f"RSS after {WARM}: {sizes[WARM - 1] / MB:.1f} MB, after {EXPORTS} x {growth:.3f}",
            f"open files after {WARM}: {len(files)}, after {EXPORTS}: {len(server.open_files())}",
        )
    assert growth <= GROWTH, [f"{size / MB:.1f}" for size in sizes[WARM - 1 :: 20]]


async def _no_more(now: list[str], before: list[str], spool: Path) -> bool:
    """Of the spool nothing is open but the lock that says that the server is alive."""
    spools = [name for name in now if name.startswith(str(spool)) and not Path(name).name.startswith(PREFIX)]
    return len(now) <= len(before) and not spools
