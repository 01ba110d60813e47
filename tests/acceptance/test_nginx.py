"""nginx before the server, as the documentation configures it: nothing waits, nothing is changed, nothing is hidden.

The block stands in a file that adds only what a test needs: folders and ports of its own. The server is the real
process.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.acceptance.clients import size_of
from tests.acceptance.process import Process, killed, streamer
from tests.conftest import connected, new_database, unlimited_session
from tests.docs.blocks import in_language, read_blocks
from tests.docs.generated import path_of
from tests.exporting import RemoteExport, create, sha256
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE, until
from tests.ports import free_ports
from tests.rawhttp import connection

BLOCK = in_language(read_blocks(path_of("operations")), "nginx")[0].text
AROUND = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""
GATE = 50_000  # a row in the middle
OF_A_HOP = {"server", "date", "connection", "x-accel-buffering"}  # the last one is meant for nginx, which takes it away
BROKEN = {18, 56, 92}  # of curl: a partial body, a reset connection, a reset stream
CURLS_BUFFER = 16 * 1024  # bytes
RANGES = ["bytes=0-0", "bytes=1000-5000000", "bytes=4000000-", "bytes=-1000", "bytes=0-9,100-199,-5", "bytes=99999999-"]
ENDS = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}
SLOWLY = ("--limit-rate", "2M")

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None or shutil.which("curl") is None, reason="nginx or curl is not installed"
)
pytestmark = [needs_nginx, pytest.mark.asyncio(loop_scope="module")]


def curl_can() -> str:
    """What curl says of itself; nothing where there is none."""
    return subprocess.run("curl --version", shell=True, check=False, capture_output=True, text=True).stdout


needs_http2 = pytest.mark.skipif("HTTP2" not in curl_can(), reason="this curl speaks no HTTP/2")


@dataclass(frozen=True)
class Proxied:
    """A server, the nginx before it, and the test's hand on the gate."""

    folder: Path
    process: Process
    gates: Gates
    session: aiohttp.ClientSession
    direct: str
    url: str
    http2: str

    async def create(self) -> RemoteExport:
        """A new export of the gated view, through nginx."""
        return await create(self.session, self.url, dataset="gated")

    async def held(self) -> tuple[RemoteExport, int]:
        """A new export that stands at the gate, and the bytes that can be read of it."""
        await self.gates.shut("gated", GATE)
        export = await self.create()
        await self.gates.reached("gated", GATE)
        seen = -1

        async def still() -> bool:
            """The status is told of bytes a moment after they can be read."""
            nonlocal seen
            before, seen = seen, int((await export.status())["progress"]["bytes"])
            await asyncio.sleep(0.1)
            return seen == before > 0

        await until(still, "the export stands still")
        return export, seen

    async def let_go(self) -> None:
        await self.gates.open("gated", GATE)


@dataclass(frozen=True)
class Answer:
    status: int
    fields: dict[str, str]
    sha256: str


@asynccontextmanager
async def proxied_server(postgres: str, folder: Path) -> AsyncIterator[Proxied]:
    async with (
        new_database(postgres) as database,
        connected(database) as connection,
        unlimited_session() as session,
    ):
        gates = Gates(connection, database)
        await gates.view("gated")
        settings = {"DATABASE_URL": database, "API_PORT": "0", "DATASETS": "gated", "SHUTDOWN_TIMEOUT": "0"}
        async with streamer("serve", folder=folder, environment=settings) as process:
            direct = await process.url()
            async with nginx(folder / "nginx", direct.removeprefix("http://")) as ports:
                yield Proxied(folder, process, gates, session, direct, *(f"http://127.0.0.1:{port}" for port in ports))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxied]:
    async with proxied_server(postgres, tmp_path_factory.mktemp("proxied")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def proxied(shared: Proxied) -> AsyncIterator[Proxied]:
    """A server behind nginx, which lives on. Its gate is open before and after the test."""
    yield shared
    await shared.gates.connection.execute("SELECT pg_advisory_unlock_all()")


@pytest_asyncio.fixture(loop_scope="module")
async def mortal(postgres: str, tmp_path: Path) -> AsyncIterator[Proxied]:
    """A server behind nginx, for a test that ends it."""
    async with proxied_server(postgres, tmp_path) as server:
        yield server


@asynccontextmanager
async def nginx(
    folder: Path, server: str, *, block: str = BLOCK, ports: Sequence[int] = ()
) -> AsyncIterator[Sequence[int]]:
    """Its ports, the second one for HTTP/2."""
    ports = ports or free_ports(2)
    configuration = configured(folder, server, block, ports)
    process = await asyncio.create_subprocess_exec(
        "nginx", "-p", folder, "-e", folder / "error.log", "-c", configuration
    )
    try:
        await until(lambda: listens(ports[0]), f"nginx listens: {configuration}")
        yield ports
    finally:
        process.terminate()
        await process.wait()


def configured(folder: Path, server: str, block: str, ports: Sequence[int]) -> Path:
    listen = "listen 127.0.0.1:{}; listen 127.0.0.1:{} http2;".format(*ports)
    block = block.replace("listen 80;", listen).replace("127.0.0.1:8080", server)
    assert listen in block
    assert server in block
    user = "user root;" if os.geteuid() == 0 else ""  # who owns the folder
    folder.mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(AROUND.format(user=user, folder=folder, block=block))
    return configuration


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def curl(target: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-qfsSN", "--noproxy", "*", "-o", target, *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        await killed(process)


async def test_what_is_written_comes_at_once(proxied: Proxied) -> None:
    export, there = await proxied.held()
    async with proxied.session.get(export.download) as response:
        assert response.status == 200
        async with asyncio.timeout(PATIENCE):  # the gate is shut: nothing that comes later drives it out
            body = await response.content.readexactly(there)
        await proxied.let_go()
        body += await response.content.read()
    assert sha256(body) == (await export.until("completed"))["sha256"] == sha256(gated_csv())


async def test_compressed_bytes_come_at_once_too(proxied: Proxied) -> None:
    export, there = await proxied.held()
    inflate = zlib.decompressobj(wbits=31)
    body = b""
    async with proxied.session.get(export.download, headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        async with asyncio.timeout(PATIENCE):
            while len(body) < there:
                body += inflate.decompress(await response.content.readany())
        await proxied.let_go()
        async for piece in response.content.iter_any():
            body += inflate.decompress(piece)
    assert inflate.eof
    assert sha256(body) == (await export.until("completed"))["sha256"]


async def test_an_export_in_one_request_flows_and_tells_where_it_stays(proxied: Proxied) -> None:
    await proxied.gates.shut("gated", GATE)
    async with proxied.session.get(f"{proxied.url}/exports/csv?dataset=gated") as response:
        export = RemoteExport(proxied.session, proxied.url, response.headers["X-Export-Id"])
        assert response.headers["Content-Location"] == f"{export.id}/download"
        async with asyncio.timeout(PATIENCE):
            await response.content.readexactly(10_000)
        await proxied.let_go()
        await response.read()
    assert sha256(await export.body()) == (await export.until("completed"))["sha256"]


@pytest.mark.parametrize("asked", [{}, *({"Range": value} for value in RANGES), {"Accept-Encoding": "gzip"}], ids=str)
async def test_a_completed_export_is_answered_as_without_nginx(proxied: Proxied, asked: dict[str, str]) -> None:
    export = await proxied.create()
    whole = (await export.until("completed"))["sha256"]
    await answer(
        proxied.session, proxied.direct + export.path, {"Accept-Encoding": "gzip"}
    )  # from now on it is complete
    answers = [await answer(proxied.session, url + export.path, asked) for url in (proxied.direct, proxied.url)]
    assert answers[0] == answers[1]
    assert (answers[1].sha256 == whole) == (not asked)


async def answer(session: aiohttp.ClientSession, url: str, asked: dict[str, str]) -> Answer:
    async with session.get(url, headers=asked) as response:
        fields = {name.lower(): text for name, text in response.headers.items()}
        body = await response.read()
    if response.content_type == "multipart/byteranges":
        boundary = fields["content-type"].rpartition("=")[2].strip('"')  # another one for each answer
        fields["content-type"] = fields["content-type"].replace(boundary, "")
        body = body.replace(boundary.encode(), b"")
    return Answer(response.status, {name: fields[name] for name in fields.keys() - OF_A_HOP}, sha256(body))


async def test_conditions_of_a_download_are_heard(proxied: Proxied) -> None:
    export = await proxied.create()
    etag = (await export.until("completed"))["etag"]
    asked: list[tuple[dict[str, str], int]] = [
        ({"If-None-Match": etag}, 304),
        ({"If-Match": '"another"'}, 412),
        ({"Range": "bytes=5-9", "If-Range": etag}, 206),
        ({"Range": "bytes=5-9", "If-Range": '"another"'}, 200),
    ]
    for fields, status in asked:
        async with proxied.session.get(export.download, headers=fields) as response:
            assert response.status == status, fields


async def test_curl_resumes_a_completed_export(tmp_path: Path, proxied: Proxied) -> None:
    export = await proxied.create()
    status = await export.until("completed")
    target = tmp_path / "users.csv"
    target.write_bytes(gated_csv()[:123_456])
    async with curl(target, "-C", "-", export.download) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    assert sha256(target.read_bytes()) == status["sha256"]


async def test_curl_resumes_an_export_that_grows(tmp_path: Path, proxied: Proxied) -> None:
    export, there = await proxied.held()
    target = tmp_path / "users.csv"
    target.write_bytes(gated_csv()[:123_456])
    async with curl(target, "-C", "-", export.download) as process:
        await until(lambda: holds(target, there), "curl has all that is there")
        await proxied.let_go()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    assert sha256(target.read_bytes()) == (await export.until("completed"))["sha256"]


async def holds(target: Path, size: int) -> bool:
    """All but what curl may keep to itself."""
    return size_of(target) > size - CURLS_BUFFER


every_way = pytest.mark.parametrize("how", [(), ("--compressed",), ("-r", "1000-")], ids=str)
every_version = pytest.mark.parametrize("version", ["HTTP/1.1", pytest.param("HTTP/2", marks=needs_http2)])


@every_way
@every_version
async def test_a_cancelled_export_is_broken_for_the_client_of_nginx(
    tmp_path: Path, proxied: Proxied, how: tuple[str, ...], version: str
) -> None:
    async with held_by_curl(proxied, tmp_path / "users.csv", how, version) as export:
        assert await export.delete() == 204


@every_way
@every_version
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_the_end_of_the_server_is_a_broken_export_for_the_client_of_nginx(
    tmp_path: Path, mortal: Proxied, how: tuple[str, ...], version: str, end: signal.Signals
) -> None:
    async with held_by_curl(mortal, tmp_path / "users.csv", how, version):
        mortal.process.signal(end)


@asynccontextmanager
async def held_by_curl(
    proxied: Proxied, target: Path, how: tuple[str, ...], version: str
) -> AsyncIterator[RemoteExport]:
    """An export that curl has all of that is there. The context breaks it, and curl must say so."""
    export, there = await proxied.held()
    option, url = {"HTTP/1.1": ("--http1.1", proxied.url), "HTTP/2": ("--http2-prior-knowledge", proxied.http2)}[
        version
    ]
    first = 1000 if "-r" in how else 0
    async with curl(target, *how, option, url + export.path) as process:
        await until(lambda: holds(target, there - first), "curl has all that is there")
        yield export
        assert await asyncio.wait_for(process.wait(), PATIENCE) in BROKEN
    assert gated_csv()[first:].startswith(await asyncio.to_thread(target.read_bytes))


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed")
async def test_wget_sees_a_broken_export_too(tmp_path: Path, proxied: Proxied) -> None:
    export, _ = await proxied.held()
    target = tmp_path / "users.csv"
    wget = await asyncio.create_subprocess_exec("wget", "-q", "--no-proxy", "-O", target, export.download)
    await until(lambda: holds(target, CURLS_BUFFER), "wget has begun")
    assert await export.delete() == 204
    assert await asyncio.wait_for(wget.wait(), PATIENCE) != 0


async def test_who_could_not_see_a_failure_is_refused(proxied: Proxied) -> None:
    async with connection(proxied.url) as wire:
        await wire.send("GET", "/health", version="1.0")
        assert (await wire.begin())[0].status == 505


async def test_nothing_is_kept_in_files_for_a_slow_client(tmp_path: Path, proxied: Proxied) -> None:
    export = await proxied.create()
    status = await export.until("completed")
    target = tmp_path / "users.csv"
    async with curl(target, *SLOWLY, export.download) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    assert sha256(target.read_bytes()) == status["sha256"]
    assert "temporary file" not in (proxied.folder / "nginx" / "error.log").read_text()
