"""A query that raises notices: they are no part of the export, and no row is lost with them."""

import aiohttp

from streamer.config import Names
from tests.conftest import Serve, connected

ROWS = 1000
VIEW = f"""
    CREATE FUNCTION talkative(n integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RAISE NOTICE 'row %', n;
        RETURN n;
    END $$;
    CREATE VIEW talkative AS SELECT talkative(n) AS n FROM generate_series(1, {ROWS}) AS n;
"""


async def test_export_of_a_query_that_raises_notices_is_whole(
    database: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    async with connected(database) as connection:
        await connection.execute(VIEW)
    server = await serve(source_database_url=database, datasets=Names(("talkative",)))
    async with session.get(f"{server.url}/exports/csv?dataset=talkative") as response:
        assert await response.text() == "n\n" + "".join(f"{n}\n" for n in range(1, ROWS + 1))
