"""The header line of the CSV is sent before the first row, and the export can still be retried.

A gate before the first row takes the place of a sort of minutes. The bytes that a follower has received in the end are
compared with those of the completed export, whatever happened between the header line and the rows.
"""

import asyncio
import zlib

import aiohttp
import pytest

from streamer.formats.dialect import prologue
from streamer.http.download.live import DownloadTimes
from streamer.model import Dialect
from streamer.server.tuning import Tuning
from tests.conftest import Serve, Server
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import HEADER, Gates, gated_csv
from tests.polling import PATIENCE, until
from tests.rawhttp import End, connection

ROWS = 20_000
WHOLE = sha256(gated_csv(ROWS))


@pytest.fixture
def tuning() -> Tuning:
    """The headers of a download are sent nearly at once."""
    return Tuning(downloads=DownloadTimes(first_rows=0.1))


@pytest.fixture
async def slow(serve: Serve, gates: Gates) -> Server:
    """A server whose export `gated` waits before its first row."""
    await gates.view("gated", rows=ROWS)
    await gates.shut("gated", 1)
    return await serve(**gates.settings)


async def begun(server: Server, gates: Gates, session: aiohttp.ClientSession, **parameters: str) -> RemoteExport:
    export = await create(session, server.url, dataset="gated", **parameters)
    await gates.reached("gated", 1)
    return export


async def read(response: aiohttp.ClientResponse, length: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await response.content.readexactly(length)


async def test_header_line_is_sent_before_the_first_row(
    slow: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    export = await begun(slow, gates, session)
    async with session.get(export.download) as follower:
        head = await read(follower, len(HEADER))
        assert (head, (await export.status())["progress"]["bytes"]) == (HEADER, 0)
        assert not await gates.connection.fetchval("SELECT served FROM streamer.exports")
        await gates.open("gated", 1)
        assert sha256(head + await follower.read()) == WHOLE
    assert (await export.until("completed"))["sha256"] == WHOLE
    assert sha256(await export.body()) == WHOLE


async def test_header_line_is_sent_early_in_gzip(slow: Server, gates: Gates, session: aiohttp.ClientSession) -> None:
    export = await begun(slow, gates, session)
    inflate, body = zlib.decompressobj(wbits=31), b""
    async with session.get(export.download, headers={"Accept-Encoding": "gzip"}) as follower:
        async with asyncio.timeout(PATIENCE):
            while len(body) < len(HEADER):
                body += inflate.decompress(await follower.content.readany())
        assert body == HEADER
        await gates.open("gated", 1)
        async for piece in follower.content.iter_any():
            body += inflate.decompress(piece)
    assert inflate.eof
    assert sha256(body) == WHOLE


async def test_early_bytes_of_a_dialect_are_those_of_the_file(
    slow: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    export = await begun(slow, gates, session, profile="excel", delimiter=";", columns="text,id")
    async with session.get(export.download) as follower:
        head = await read(follower, 3 + len(HEADER))
        assert head == b"\xef\xbb\xbftext;id\n"
        await gates.open("gated", 1)
        assert sha256(head + await follower.read()) == (await export.until("completed"))["sha256"]


@pytest.mark.parametrize(
    "range_", ["bytes=0-", "bytes=3-", "bytes=3-20", "bytes=0-4", "bytes=7-7", "bytes=8-20", "bytes=8-"]
)
async def test_ranges_that_begin_in_the_header_line_are_answered_early(
    slow: Server, gates: Gates, session: aiohttp.ClientSession, range_: str
) -> None:
    export = await begun(slow, gates, session)
    first, _, last = range_.removeprefix("bytes=").partition("-")
    stop = int(last) + 1 if last else None
    expected = gated_csv(ROWS)[int(first) : stop]
    request = asyncio.create_task(session.get(export.download, headers={"Range": range_}))
    if int(first) < len(HEADER):
        follower = await asyncio.wait_for(request, PATIENCE)
        early = await read(follower, len(HEADER[int(first) : stop]))
        assert early == HEADER[int(first) : stop]
    else:
        early = b""
        assert not await gates.connection.fetchval("SELECT served FROM streamer.exports")
    await gates.open("gated", 1)
    async with await request as follower:
        assert follower.status == 206
        assert sha256(early + await follower.read()) == sha256(expected)


async def another(gates: Gates, backend: int) -> bool:
    return await gates.reached("gated", 1) != backend


async def test_follower_gets_the_rows_of_a_second_run_after_the_header_line_of_the_first(
    slow: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    export = await begun(slow, gates, session)
    plain = await session.get(export.download)
    resumed = await session.get(export.download, headers={"Range": "bytes=3-"})
    squeezed = await session.get(export.download, headers={"Accept-Encoding": "gzip"})
    head, tail = await read(plain, len(HEADER)), await read(resumed, len(HEADER) - 3)
    first = await gates.reached("gated", 1)
    assert await gates.connection.fetchval("SELECT pg_terminate_backend($1)", first)
    await until(lambda: another(gates, first), "another run stands at the gate")
    await gates.open("gated", 1)
    async with plain, resumed, squeezed:
        assert sha256(head + await plain.read()) == WHOLE
        assert sha256(tail + await resumed.read()) == sha256(gated_csv(ROWS)[3:])
        assert sha256(zlib.decompress(await squeezed.read(), wbits=31)) == WHOLE
    status = await export.until("completed")
    assert (status["attempts"], status["sha256"]) == (2, WHOLE)
    assert sha256(await export.body()) == WHOLE


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE small ADD COLUMN more int",
        "ALTER TABLE small DROP COLUMN name",
        "ALTER TABLE small RENAME name TO other",
    ],
)
async def test_export_of_a_table_that_changes_between_two_runs_is_whole_or_broken_and_never_spliced(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, change: str
) -> None:
    await gates.view("gated", rows=10)
    await gates.connection.execute("CREATE TABLE small AS SELECT 1 AS id, 'a' AS name")
    await gates.connection.execute("ALTER TABLE small ENABLE ROW LEVEL SECURITY")
    await gates.dataset("waiting", "SELECT gate('gated', 1) AS id")
    await gates.shut("gated", 1)
    await gates.connection.execute("CREATE POLICY slowly ON small USING (gate('gated', 1) = 1)")
    await gates.connection.execute("ALTER TABLE small FORCE ROW LEVEL SECURITY")
    await gates.connection.execute("DROP ROLE IF EXISTS streamer_slow_reader")
    await gates.connection.execute("CREATE ROLE streamer_slow_reader")
    await gates.connection.execute("GRANT SELECT ON small TO streamer_slow_reader")
    gates._datasets.append("small")
    server = await serve(dataset_role="streamer_slow_reader", **gates.settings | {"datasets": ("small",)})
    export = await create(session, server.url, dataset="small")
    await gates.reached("gated", 1)
    follower = await session.get(export.download)
    head = await read(follower, len(b"id,name\n"))
    first = await gates.reached("gated", 1)
    assert await gates.connection.fetchval("SELECT pg_terminate_backend($1)", first)
    await gates.connection.execute(change)
    await gates.open("gated", 1)
    if "ADD" in change:
        assert head + await follower.read() == b"id,name\n1,a\n" == await export.body()
        assert (await export.until("completed"))["attempts"] == 2
    else:
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
        assert "is no longer offered" in (await export.until("failed"))["error"]
    await gates.nobody_works()
    await gates.connection.execute("DROP TABLE small")
    await gates.connection.execute("DROP ROLE streamer_slow_reader")


async def test_export_that_fails_after_its_header_line_breaks_the_connection(
    slow: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    export = await begun(slow, gates, session)
    async with connection(slow.url) as wire:
        await wire.send("GET", export.path)
        head, body = await wire.begin()
        assert (head.status, await body.grow_to(len(HEADER))) == (200, HEADER)
        await gates.refuse()
        assert await body.finish() is End.CLOSED
    await gates.open("gated", 1)
    async with session.get(export.download) as response:
        await read_problem(response, 409)


async def test_export_that_fails_at_once_gets_an_error_without_a_body(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.dataset("failing", "SELECT 1 / (n - n) AS id FROM generate_series(1, 5) AS n")
    server = await serve(**gates.settings)
    async with session.get(f"{server.url}/exports/csv", params={"dataset": "failing"}) as response:
        assert "division by zero" in (await read_problem(response, 409))["detail"]


async def test_export_without_a_header_line_sends_nothing_before_the_first_row(
    slow: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    export = await begun(slow, gates, session, header="false")
    async with session.get(export.download) as follower:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(follower.content.readany(), 0.3)
        await gates.open("gated", 1)
        assert sha256(await follower.read()) == sha256(gated_csv(ROWS)[len(HEADER) :])


async def test_export_without_rows_is_its_header_line(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated", rows=10)
    await gates.dataset("nothing", "SELECT gate('gated', 1) AS id WHERE gate('gated', 1) = 0")
    await gates.shut("gated", 1)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="nothing")
    async with session.get(export.download) as follower:
        assert await read(follower, 3) == b"id\n"
        await gates.open("gated", 1)
        assert await follower.read() == b""
    assert (await export.until("completed"))["progress"]["bytes"] == 3


def test_early_bytes_are_the_same_in_every_version() -> None:
    """A client that has them may get the rows of a later run, on another server."""
    names = ["id", "Größe", 'a"b', "c,d", "=1+1", "\n", ""]
    assert prologue(Dialect(), names) == 'id,Größe,"a""b","c,d",=1+1,"\n",""\n'.encode()
    excel = Dialect(bom=True, escape_formulas=True, delimiter="\t", quote="'", null="NULL")
    assert prologue(excel, ["NULL", *names]) == "\ufeff'NULL'\tid\tGröße\ta\"b\tc,d\t'''=1+1'\t'''\n'\t\n".encode()
