"""The README's way to a database of one's own: its SQL makes a role, with which a server exports what it may read."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.acceptance.process import streamer
from tests.conftest import connected, new_database
from tests.docs.blocks import all_blocks, in_language
from tests.exporting import sha256
from tests.integration.sources import entered_as

ROWS = 5000
CUSTOMERS = f"""
    CREATE TABLE customers (id int, name text);
    INSERT INTO customers SELECT number, 'customer ' || number FROM generate_series(1, {ROWS}) AS number;
    CREATE TABLE salaries (id int)
"""
EXPECTED = "id,name\n" + "".join(f"{number},customer {number}\n" for number in range(1, ROWS + 1))
PASSWORD = "choose one"


@pytest.fixture
async def role(database: str) -> AsyncIterator[str]:
    """The role that the README's SQL makes, with a name of this test: roles belong to all databases."""
    (block,) = in_language(all_blocks(), "sql")
    name = f"exporter_{uuid4().hex[:8]}"
    async with connected(database) as owner:
        await owner.execute(CUSTOMERS)
        await owner.execute(block.text.replace("exporter", name).replace("shop", urlsplit(database).path[1:]))
        yield name
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def exported(folder: Path, settings: dict[str, str]) -> bytes:
    """What `streamer export` saves from a server with these settings."""
    async with streamer("serve", "--port", "0", folder=folder, environment=settings) as server:
        place = {"STREAMER_URL": await server.url()}
        async with streamer("export", "-o", "customers.csv", folder=folder, environment=place) as client:
            assert await client.exit_code() == 0, client.stderr
    return (folder / "customers.csv").read_bytes()


async def test_the_role_of_the_readme_exports_what_it_may_read(tmp_path: Path, database: str, role: str) -> None:
    settings = {"DATABASE_URL": entered_as(database, role, PASSWORD), "DATASETS": "customers"}
    body = await exported(tmp_path, settings)
    assert sha256(body) == sha256(EXPECTED.encode())


async def test_a_database_that_is_only_read_keeps_no_table_of_exports(
    tmp_path: Path, database: str, role: str, postgres: str
) -> None:
    async with connected(database) as owner:
        await owner.execute(f"REVOKE CREATE ON DATABASE {urlsplit(database).path[1:]} FROM {role}")
    source = entered_as(database, role, PASSWORD)
    settings = {"DATABASE_URL": source, "DATASETS": "customers"}
    async with streamer("serve", "--port", "0", folder=tmp_path, environment=settings) as refused:
        assert await refused.exit_code() == 1
        assert "GRANT CREATE ON DATABASE" in refused.complaint()
        assert "SOURCE_DATABASE_URL" in refused.complaint()
    async with new_database(postgres) as other:
        body = await exported(tmp_path, settings | {"DATABASE_URL": other, "SOURCE_DATABASE_URL": source})
    assert sha256(body) == sha256(EXPECTED.encode())
    async with connected(database) as owner:
        assert not await owner.fetchval("SELECT to_regnamespace('streamer') IS NOT NULL")


async def test_an_export_of_what_the_role_may_not_read_says_so(tmp_path: Path, database: str, role: str) -> None:
    settings = {"DATABASE_URL": entered_as(database, role, PASSWORD), "DATASETS": "customers,salaries"}
    async with streamer("serve", "--port", "0", folder=tmp_path, environment=settings) as server:
        place = {"STREAMER_URL": await server.url()}
        command = "export", "--dataset", "salaries", "-o", "salaries.csv"
        async with streamer(*command, folder=tmp_path, environment=place) as client:
            assert await client.exit_code() == 3
        assert "permission denied for table salaries" in client.stderr[0]
    assert not (tmp_path / "salaries.csv").exists()
