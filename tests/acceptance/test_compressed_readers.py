"""The readers that the documentation names read a compressed file as it is, if they are installed."""

import sys
from pathlib import Path

import pytest

from streamer.client import Client
from streamer.coding import COMPRESSED, Coding
from tests.acceptance.test_readme_commands import succeeds
from tests.conftest import Server
from tests.docs.not_run import READERS

ROWS = 700
READING = {
    "pandas": "import pandas; assert len(pandas.read_csv('FILE')) == ROWS",
    "polars": "import polars; assert polars.read_csv('FILE').height == ROWS",
    "duckdb": """import duckdb; assert duckdb.sql("SELECT count(*) FROM 'FILE'").fetchall() == [(ROWS,)]""",
}


async def saved(server: Server, folder: Path, coding: Coding) -> str:
    name = f"users{coding.suffix}"
    async with Client(server.url) as client:
        export = await client.export(limit=ROWS)
        await export.save(folder / name, coding=coding)
    return name


@pytest.mark.parametrize("coding", COMPRESSED)
@pytest.mark.parametrize("reader", READING)
async def test_a_reader_gets_every_row(server: Server, tmp_path: Path, reader: str, coding: Coding) -> None:
    pytest.importorskip(reader)
    if (reader, coding) == ("pandas", Coding.ZSTD):
        pytest.importorskip("zstandard")
    name = await saved(server, tmp_path, coding)
    script = READING[reader].replace("FILE", name).replace("ROWS", str(ROWS))
    await succeeds(sys.executable, "-c", script, at=server, folder=tmp_path)


async def test_the_block_of_the_documentation_runs(server: Server, tmp_path: Path) -> None:
    for reader in READING:
        pytest.importorskip(reader)
    await saved(server, tmp_path, Coding.GZIP)
    await succeeds(sys.executable, "-c", READERS, at=server, folder=tmp_path)
