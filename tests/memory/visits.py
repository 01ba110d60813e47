"""A load of everything at once: what clients of all kinds ask of a server, in any order.

Each visit compares what it gets: a whole body with the SHA-256 that the server says, ranges with the file, errors with
their status. Of all kinds the same number is asked, in an order of chance.
"""

import asyncio
import random
import socket
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256

import aiohttp

from tests.conftest import SEEDS, connected
from tests.exporting import RemoteExport, create
from tests.memory.confined import Confined

ROWS = 150_000  # of users, some 14 MB
DATASETS = "users,in_order,broken,wide"
TABLES = """
    CREATE VIEW in_order AS SELECT * FROM users ORDER BY lifetime_value, id;
    CREATE VIEW broken AS SELECT 1 / (id - 90000) AS id, name FROM users;
    CREATE TABLE wide AS
        SELECT n AS id, repeat(md5(n::text), 15000) AS text FROM generate_series(1, 40) AS n;
"""
KEPT = 6  # completed exports that are asked for again
LONG = 120.0  # seconds for an export to end
STAY = 20.0  # seconds that a client stays that has stopped to read
BAD = (
    ("/exports/csv?nothing=1", 400),
    ("/exports/csv?id=x", 400),
    ("/exports/csv?columns=nothing", 400),
    ("/exports/csv?dataset=nothing", 400),
    ("/exports/csv?name=%FF", 400),
    ("/exports/nothing/download", 404),
    ("/exports/00000000-0000-4000-8000-000000000000/status", 404),
    ("/nothing", 404),
)
FILTERS: tuple[dict[str, str], ...] = (
    {"country_code": "US,DE"},
    {"min_ltv": "500", "columns": "id,email"},
    {"name__contains": "ü", "profile": "excel"},
    {"signup_date__isnull": "true", "delimiter": "tab"},
    {"order_by": "-lifetime_value", "limit": "20000"},
    {"id__lte": "60000", "timestamps": "iso8601", "null": "NULL"},
)


async def prepare(database: str) -> None:
    """Fills an empty database."""
    async with connected(database) as connection:
        await connection.execute("SELECT set_config('seed.rows', $1, false)", str(ROWS))
        for name in ("01_schema.sql", "02_users.sql", "03_order.sql"):
            await connection.execute((SEEDS / name).read_text(encoding="utf-8"))
        await connection.execute(TABLES)
        await connection.execute("VACUUM ANALYZE")


class Visitors:
    """Visits one after another, several at once, as many as `share` of a core of the server allows."""

    def __init__(self, server: Confined, session: aiohttp.ClientSession, share: float, seed: int = 1) -> None:
        self._server = server
        self._session = session
        self._share = share
        self._chance = random.Random(seed)
        self._completed: list[tuple[RemoteExport, str]] = []  # with their SHA-256
        self.made: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def come(self, seconds: float, visitors: int) -> None:
        """What a visit got and should not get is in `wrong`; the others go on."""
        clock = asyncio.get_running_loop().time
        began = clock()
        first = self._server.cpu()

        async def visit_on() -> None:
            while clock() - began < seconds:
                for kind in self._chance.sample(self._kinds, len(self._kinds)):
                    used, allowed = self._server.cpu() - first, self._share * (clock() - began)
                    await asyncio.sleep(max(0.0, (used - allowed) / self._share))
                    if clock() - began < seconds:
                        await self._visit(kind)

        async with asyncio.TaskGroup() as group:
            for _ in range(visitors):
                group.create_task(visit_on())

    async def _visit(self, kind: Callable[[], Awaitable[None]]) -> None:
        name = kind.__name__.strip("_")
        try:
            await kind()
        except Exception:
            self.wrong.append(f"{name}: {traceback.format_exc()}")
        self.made[name] += 1

    @property
    def _kinds(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self._whole_and_followed,
            self._filtered,
            self._in_the_request,
            self._compressed,
            self._ranges,
            self._sealed_and_compressed,
            self._stopped,
            self._cancelled,
            self._broken,
            self._wide,
            self._lists,
            self._bad_requests,
        ]

    async def _whole_and_followed(self) -> None:
        dataset = self._chance.choice(("users", "in_order"))
        export = await create(self._session, self._server.url, dataset=dataset)
        digests = await asyncio.gather(*(self._follow(export) for _ in range(3)))
        await self._is_completed(export, digests)

    async def _filtered(self) -> None:
        export = await create(self._session, self._server.url, **self._chance.choice(FILTERS))
        await self._is_completed(export, [await self._follow(export)])

    async def _in_the_request(self) -> None:
        parameters = self._chance.choice(FILTERS)
        async with self._session.get(f"{self._server.url}/exports/csv", params=parameters) as response:
            assert response.status == 200, await response.text()
            digest = await _digest(response)
            export = RemoteExport(self._session, self._server.url, response.headers["X-Export-Id"])
        await self._is_completed(export, [digest])

    async def _compressed(self) -> None:
        export = await create(self._session, self._server.url, country_code="FR,GB,JP")
        digests = await asyncio.gather(*(self._follow(export, gzip=True) for _ in range(4)))
        await self._is_completed(export, digests)

    async def _ranges(self) -> None:
        """Of a sealed export: of every size, several at once, and beyond its end."""
        if not self._completed:
            return
        export, _ = self._chance.choice(self._completed)
        for _ in range(20):
            start = self._chance.randrange(2_000_000)
            size = self._chance.choice((1, 1000, 60_000, 1_000_000))
            spans = self._chance.choice((f"{start}-{start + size}", f"-{size}", "0-9,20-29,5000-9000", "99999999999-"))
            async with self._session.get(export.download, headers={"Range": f"bytes={spans}"}) as response:
                assert response.status in {200, 206, 410, 416}, response.status
                await response.read()

    async def _sealed_and_compressed(self) -> None:
        if self._completed:
            export, sha256 = self._chance.choice(self._completed)
            with suppress(_Gone):
                assert await self._follow(export, gzip=True) == sha256
                assert await self._follow(export) == sha256

    async def _stopped(self) -> None:
        """Clients that read a little and then nothing, for a while, and go without a word."""
        export = await create(self._session, self._server.url)
        gone = [self._stop_reading(export, self._chance.randrange(200_000)) for _ in range(6)]
        await asyncio.gather(*gone)
        await export.until("completed", within=LONG)
        await export.delete()

    async def _stop_reading(self, export: RemoteExport, size: int) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, self._server.address)
            await loop.sock_sendall(connection, f"GET {export.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            while size > 0 and (piece := await loop.sock_recv(connection, min(size, 65536))):
                size -= len(piece)
            await asyncio.sleep(self._chance.uniform(0, STAY))
        finally:
            connection.close()

    async def _cancelled(self) -> None:
        export = await create(self._session, self._server.url, dataset="in_order")
        with suppress(aiohttp.ClientPayloadError, _Gone):
            async with self._session.get(export.download) as response:
                await response.content.read(10_000)
                assert await export.delete() == 204
                await response.read()

    async def _broken(self) -> None:
        export = await create(self._session, self._server.url, dataset="broken")
        with suppress(aiohttp.ClientPayloadError, _Gone):
            await self._follow(export)
        await export.until("failed", within=LONG)

    async def _wide(self) -> None:
        export = await create(self._session, self._server.url, dataset="wide")
        await self._is_completed(export, [await self._follow(export, gzip=True)])

    async def _lists(self) -> None:
        paths = ("/exports", "/exports?limit=100", "/exports?status=failed,cancelled", "/datasets", "/datasets/users")
        for path in (*paths, *["/health"] * 20):
            async with self._session.get(self._server.url + path) as response:
                assert response.status == 200, await response.text()
                await response.read()

    async def _bad_requests(self) -> None:
        for path, status in BAD:
            async with self._session.get(self._server.url + path) as response:
                assert response.status == status, (path, await response.text())
        body = {"filters": {"id": {"in": ["x"] * 1000}}}
        async with self._session.post(f"{self._server.url}/exports/csv", json=body) as response:
            assert response.status == 400, await response.text()

    async def _follow(self, export: RemoteExport, *, gzip: bool = False) -> str:
        """The SHA-256 of what came. Raises _Gone where the export has made room for others."""
        headers = {"Accept-Encoding": "gzip" if gzip else "identity"}
        async with self._session.get(export.download, headers=headers) as response:
            if response.status in {409, 410}:
                raise _Gone
            assert response.status == 200, await response.text()
            return await _digest(response)

    async def _is_completed(self, export: RemoteExport, digests: list[str]) -> None:
        """It is kept for those who ask later, and an older one is deleted."""
        status = await export.until("completed", within=LONG)
        assert set(digests) == {status["sha256"]}
        self._completed.append((export, status["sha256"]))
        if len(self._completed) > KEPT:
            older, _ = self._completed.pop(self._chance.randrange(KEPT))
            await older.delete()


class _Gone(Exception):
    """The export was removed, or has failed."""


async def _digest(response: aiohttp.ClientResponse) -> str:
    digest = sha256()
    async for piece in response.content.iter_any():
        digest.update(piece)
    return digest.hexdigest()
