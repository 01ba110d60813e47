"""Clients that people really use: curl, wget and Python's own. A whole body ends well, a broken one does not."""

import asyncio
import http.client
import re
import shutil
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests import seeds
from tests.acceptance.clients import grown
from tests.acceptance.process import killed
from tests.conftest import ROWS, Serve, Server, files_in
from tests.exporting import RemoteExport, create, sha256
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE

Command = Callable[[str, Path], Sequence[str]]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def curl(url: str, target: Path) -> Sequence[str]:
    return ["curl", "-fsS", "-N", "-o", str(target), url]


def slow_curl(url: str, target: Path) -> Sequence[str]:
    return [*curl(url, target), "--limit-rate", "5M"]


def curl_of_http_1_0(url: str, target: Path) -> Sequence[str]:
    return [*curl(url, target), "--http1.0"]


def wget(url: str, target: Path) -> Sequence[str]:
    """As it is used: it comes back for the rest of a body that broke."""
    return ["wget", "-nv", "-O", str(target), url]


def wget_that_tries_once(url: str, target: Path) -> Sequence[str]:
    return [*wget(url, target), "--tries=1"]


def slow_wget(url: str, target: Path) -> Sequence[str]:
    return [*wget(url, target), "--tries=2", "--limit-rate=5M"]


whole_by = pytest.mark.parametrize(
    "command",
    [
        pytest.param(curl, marks=needs("curl")),
        pytest.param(curl_of_http_1_0, marks=needs("curl")),
        pytest.param(wget, marks=needs("wget")),
    ],
)
live_by = pytest.mark.parametrize(
    "command",
    [
        pytest.param(curl, marks=needs("curl")),
        pytest.param(wget, marks=needs("wget")),
        pytest.param(wget_that_tries_once, marks=needs("wget")),
    ],
)
slowly_by = pytest.mark.parametrize(
    "command", [pytest.param(slow_curl, marks=needs("curl")), pytest.param(slow_wget, marks=needs("wget"))]
)


@asynccontextmanager
async def running(argv: Sequence[str], folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        await killed(process)


@pytest.fixture
async def gated(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> RemoteExport:
    """An export that stands at row 90,000."""
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    await gates.reached("gated", 90_000)
    return export


@whole_by
async def test_a_live_export_is_whole_and_ends_well(
    gated: RemoteExport, gates: Gates, tmp_path: Path, command: Command
) -> None:
    target = tmp_path / "live.csv"
    async with running(command(gated.download, target), tmp_path) as client:
        if command is not curl_of_http_1_0:  # which is answered at the end
            await grown(target, 8_000_000)
        assert client.returncode is None
        await gates.open("gated", 90_000)
        assert await asyncio.wait_for(client.wait(), PATIENCE) == 0
    assert sha256(target.read_bytes()) == sha256(gated_csv())


@whole_by
async def test_a_sealed_export_is_whole_and_ends_well(
    server: Server, session: aiohttp.ClientSession, tmp_path: Path, command: Command
) -> None:
    export = await create(session, server.url)
    await export.until("completed")
    target = tmp_path / "sealed.csv"
    async with running(command(export.download, target), tmp_path) as client:
        assert await asyncio.wait_for(client.wait(), PATIENCE) == 0
    assert sha256(target.read_bytes()) == sha256(seeds.csv_bytes(seeds.rows(ROWS)))


@live_by
async def test_a_cancelled_export_ends_badly(gated: RemoteExport, tmp_path: Path, command: Command) -> None:
    target = tmp_path / "cancelled.csv"
    async with running(command(gated.download, target), tmp_path) as client:
        await grown(target)
        assert await gated.delete() == 204
        assert await asyncio.wait_for(client.wait(), PATIENCE) != 0
    assert len(target.read_bytes()) < len(gated_csv())


@slowly_by
async def test_a_cancelled_export_ends_badly_within_a_chunk_too(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path, command: Command
) -> None:
    await gates.view("gated", rows=400_000)  # far more than all buffers between server and client
    await gates.shut("gated", 390_000)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    await gates.reached("gated", 390_000)
    target = tmp_path / "cancelled.csv"
    async with running(command(export.download, target), tmp_path) as client:
        await grown(target)
        assert await export.delete() == 204
        assert await asyncio.wait_for(client.wait(), PATIENCE) != 0


@live_by
async def test_an_export_that_fails_ends_badly(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, tmp_path: Path, command: Command
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    await gates.dataset("failing", "SELECT id, text, 1 / (id - 95000) AS quotient FROM gated")
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="failing")
    target = tmp_path / "failed.csv"
    async with running(command(export.download, target), tmp_path) as client:
        await grown(target)
        await gates.reached("gated", 90_000)
        await gates.open("gated", 90_000)
        assert await asyncio.wait_for(client.wait(), PATIENCE) != 0


@needs("curl")
async def test_curl_saves_a_streamed_export_under_its_name(server: Server, tmp_path: Path) -> None:
    argv = ["curl", "-fsS", "-OJ", f"{server.url}/exports/csv?columns=id,email"]
    async with running(argv, tmp_path) as client:
        assert await asyncio.wait_for(client.wait(), PATIENCE) == 0
    (saved,) = files_in(tmp_path) - {"spool"}
    assert re.fullmatch(r"users_[0-9]{4}-[0-9]{2}-[0-9]{2}\.csv", saved)
    assert sha256((tmp_path / saved).read_bytes()) == sha256(seeds.csv_bytes(seeds.rows(ROWS), ["id", "email"]))


@needs("curl")
async def test_curl_shows_the_reason_of_a_refusal_and_ends_badly(server: Server, tmp_path: Path) -> None:
    argv = ["curl", "-sS", "--fail-with-body", "-o", "problem.json", f"{server.url}/exports/csv?min_ltv=abc"]
    async with running(argv, tmp_path) as client:
        assert await asyncio.wait_for(client.wait(), PATIENCE) == 22  # an HTTP status of 400 or more
    assert "min_ltv" in (tmp_path / "problem.json").read_text()


def by_urllib(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        body: bytes = response.read()
        return body


def by_http_client(url: str) -> bytes:
    """Two downloads over one connection."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        bodies = []
        for _ in range(2):
            connection.request("GET", parts.path)
            bodies.append(connection.getresponse().read())
        assert bodies[0] == bodies[1]
        return bodies[0]
    finally:
        connection.close()


@pytest.mark.parametrize("download", [by_urllib, by_http_client])
async def test_python_gets_a_live_and_a_sealed_export_whole(
    gated: RemoteExport, gates: Gates, download: Callable[[str], bytes]
) -> None:
    live = asyncio.create_task(asyncio.to_thread(download, gated.download))
    await gates.open("gated", 90_000)
    assert sha256(await live) == sha256(gated_csv())
    await gated.until("completed")
    assert sha256(await asyncio.to_thread(download, gated.download)) == sha256(gated_csv())


async def test_python_sees_that_a_cancelled_export_is_incomplete(gated: RemoteExport) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def download() -> bytes:
        with urllib.request.urlopen(gated.download, timeout=20) as response:
            body: bytes = response.read(1_000_000)
            loop.call_soon_threadsafe(begun.set)
            return body + bytes(response.read())

    reading = asyncio.create_task(asyncio.to_thread(download))
    await begun.wait()
    assert await gated.delete() == 204
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        await reading
