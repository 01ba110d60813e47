"""An export that stands still where a test wants it: at known frontiers, with known bytes.

The view `gated` takes an advisory lock at each row of GATES; a test that holds the lock holds the export there. The
rows before a gate fill their FETCH exactly, so the frontier of an export that stands at a gate is known to the byte.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache

import aiohttp
import asyncpg

from streamer.config import Names
from streamer.source.fetching import MOST_ROWS
from streamer.source.rows import CursorChoice
from tests.conftest import Serve, Server, connected

DATASET = "gated"
ROWS = 24 * MOST_ROWS
REPEATED = 20  # times 32 bytes make a text
# More waits at the first gate than the sockets between a server and a client that does not read can hold.
GATES = (16 * MOST_ROWS + 1, 20 * MOST_ROWS + 1)
HEADER = b"id,text\n"
PATIENCE = 10.0  # seconds for an export to stand at a gate

VIEW = f"""
    CREATE FUNCTION gated_text(n integer) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        IF n IN {GATES} THEN
            PERFORM pg_advisory_xact_lock_shared(n);
        END IF;
        RETURN repeat(md5(n::text), {REPEATED});
    END $$;
    CREATE VIEW {DATASET} AS SELECT n AS id, gated_text(n) AS text FROM generate_series(1, {ROWS}) AS n;
"""
CANCEL_WAITING = """
    SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""


@cache
def body() -> bytes:
    """The whole export."""
    return HEADER + b"".join(map(_record, range(1, ROWS + 1)))


@cache
def frontier(gate: int) -> int:
    """The bytes that can be read while the export stands at a gate."""
    return len(HEADER) + sum(len(_record(n)) for n in range(1, gate))


def _record(n: int) -> bytes:
    return b"%d,%s\n" % (n, hashlib.md5(str(n).encode()).hexdigest().encode() * REPEATED)


@dataclass(frozen=True)
class Gated:
    """A server with the dataset, and the test's hand on the gates."""

    server: Server
    session: aiohttp.ClientSession
    hand: "asyncpg.Connection[asyncpg.Record]"

    async def held(self) -> str:
        """The download URL of a new export that stands at the first gate."""
        for gate in GATES:
            await self.hand.execute("SELECT pg_advisory_lock($1)", gate)
        url = await self._created()
        await self._reaches(url, frontier(GATES[0]))
        return url

    async def sealed(self) -> str:
        """The download URL of a new export that is completed."""
        url = await self._created()
        await self.ended(url)
        return url

    async def open(self, gate: int) -> None:
        await self.hand.execute("SELECT pg_advisory_unlock($1)", gate)

    async def open_all(self) -> None:
        for gate in GATES:
            await self.open(gate)

    async def fail(self, url: str) -> None:
        """The database refuses to go on with the export that stands at a gate."""
        async with asyncio.timeout(PATIENCE):
            while not await self.hand.fetch(CANCEL_WAITING):
                pass  # its rows have been read, and it is about to stand there
        await self.ended(url)

    async def cancel(self, url: str) -> None:
        async with self.session.delete(url.removesuffix("/download")) as response:
            assert response.status == 204, await response.text()

    async def ended(self, url: str) -> None:
        """Returns when an export has come to its end, good or bad; the server itself waits."""
        beyond = len(body()) + 1
        async with self.session.get(url, headers={"Range": f"bytes={beyond}-"}) as response:
            assert response.status in {409, 410, 416}, await response.text()

    async def started(self) -> int:
        """The number of exports that have been started."""
        return int(await self.hand.fetchval("SELECT count(*) FROM streamer.exports"))

    async def _created(self) -> str:
        async with self.session.post(f"{self.server.url}/exports/csv?dataset={DATASET}") as created:
            assert created.status == 202, await created.text()
            return f"{self.server.url}{(await created.json())['links']['download']}"

    async def _reaches(self, url: str, position: int) -> None:
        """Returns when so many bytes can be read; the server itself waits."""
        last = position - 1
        async with self.session.get(url, headers={"Range": f"bytes={last}-{last}"}) as response:
            assert response.status == 206, await response.text()


@asynccontextmanager
async def serving_gated(database: str, serve: Serve, session: aiohttp.ClientSession) -> AsyncIterator[Gated]:
    """Makes the view in a database of the test's own, and serves it. Leaving opens the gates."""
    async with connected(database) as hand:
        await hand.execute(VIEW)
        server = await serve(source_database_url=database, datasets=Names((DATASET,)), export_cursor=CursorChoice.FETCH)
        yield Gated(server, session, hand)
