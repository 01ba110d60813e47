"""`streamer` behind the proxy that the environment names: a proxy of our own, which notes what it is told."""

import asyncio
import base64
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.process import streamer
from tests.integration.pretender import pretending

CONTENT = b"id\n" + b"1\n" * 100_000
NAME = "streamer.test"  # of the server; only the proxy knows where that is
REFUSAL = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


class ForwardProxy:
    """Connects to `port` of this machine, whatever it is asked for; `heads` are the requests it has read."""

    def __init__(self, port: int, refusal: bytes | None = None) -> None:
        self._target = port
        self._refusal = refusal
        self.port = 0
        self.heads: list[str] = []
        self._accepted: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ForwardProxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._accepted:
                task.cancel()
            await asyncio.gather(*self._accepted, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            if self._refusal:
                writer.write(self._refusal)
            else:
                await self._pass_on(head, reader, writer)

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection for each request in the clear; a tunnel for CONNECT (RFC 9110, 9.3.6)."""
        above_reader, above = await asyncio.open_connection("127.0.0.1", self._target)
        with closing(above):
            method, target, rest = head.split(b" ", 2)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = urlsplit(target.decode())._replace(scheme="", netloc="").geturl().encode()
                above.write(b" ".join((method, path, rest.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))))
            sending = asyncio.create_task(_copy(reader, above))
            try:
                await _copy(above_reader, writer)
            finally:
                sending.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Of the server, which a client believes that is told of its file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    key, file = folder / "key.pem", folder / "certificate.pem"
    names = ("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}")
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", file)
    subprocess.run(["openssl", "req", "-x509", *made, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return file, context


async def test_a_server_in_the_clear_is_reached_by_the_proxy_and_this_machine_without_it(tmp_path: Path) -> None:
    async with pretending(CONTENT) as pretender, ForwardProxy(_port(pretender.url)).running() as proxy:
        place = {"HTTP_PROXY": f"http://me:pass@127.0.0.1:{proxy.port}", "STREAMER_API_KEY": "secret"}
        server = f"http://{NAME}:8080"
        arguments = "export", "-o", "x.csv", "--server", server
        async with streamer(*arguments, folder=tmp_path, environment=place) as process:
            assert await process.exit_code() == 0, process.stderr
        assert (tmp_path / "x.csv").read_bytes() == CONTENT
        assert {head.split()[0] for head in proxy.heads} == {"POST", "GET"}
        for head in proxy.heads:
            assert head.split()[1].startswith(f"{server}/exports/")
            assert f"\r\nProxy-Authorization: Basic {base64.b64encode(b'me:pass').decode()}\r\n" in head
        assert pretender.authorizations == {"Bearer secret"}
        seen = len(proxy.heads)
        async with streamer("pull", pretender.download, "-o", "y.csv", folder=tmp_path, environment=place) as process:
            assert await process.exit_code() == 0, process.stderr
        assert len(proxy.heads) == seen


async def test_the_key_goes_through_the_tunnel_to_the_server_and_not_to_the_proxy(tmp_path: Path) -> None:
    file, context = certificate(tmp_path)
    async with pretending(CONTENT, context) as pretender, ForwardProxy(_port(pretender.url)).running() as proxy:
        place = {
            "HTTPS_PROXY": f"http://me:pass@127.0.0.1:{proxy.port}",
            "STREAMER_API_KEY": "secret",
            "SSL_CERT_FILE": str(file),
        }
        arguments = "pull", str(pretender.id), "-o", "x.csv", "--server", f"https://{NAME}"
        async with streamer(*arguments, folder=tmp_path, environment=place) as process:
            assert await process.exit_code() == 0, process.stderr
    assert (tmp_path / "x.csv").read_bytes() == CONTENT
    assert pretender.authorizations == {"Bearer secret"}
    for head in proxy.heads:
        assert head.startswith(f"CONNECT {NAME}:443 ")
        assert "secret" not in head
        assert "Proxy-Authorization: Basic" in head


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_told_in_one_sentence(tmp_path: Path, scheme: str) -> None:
    async with ForwardProxy(0, REFUSAL).running() as proxy:
        place = {f"{scheme.upper()}_PROXY": f"http://me:pass@127.0.0.1:{proxy.port}"}
        arguments = "ls", "--json", "--server", f"{scheme}://{NAME}"
        async with streamer(*arguments, folder=tmp_path, environment=place) as process:
            assert await process.exit_code() == 1
    assert len(process.stderr) == 1
    assert "407 Proxy Authentication Required" in process.stderr[0]
    assert json.loads(process.stdout[0])["exitStatus"] == 1


async def test_a_proxy_that_is_away_is_named_instead_of_the_server(tmp_path: Path) -> None:
    place = {"HTTPS_PROXY": "http://me:pass@127.0.0.1:9"}
    arguments = "pull", "00000000-0000-0000-0000-000000000000", "--max-tries", "1", "--server", f"https://{NAME}"
    async with streamer(*arguments, folder=tmp_path, environment=place) as process:
        assert await process.exit_code() == 5
    sentence = "the proxy 127.0.0.1:9 cannot be reached: Connection refused; gave up after 1 try"
    assert process.stderr == [f"streamer: {sentence}"]


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port
