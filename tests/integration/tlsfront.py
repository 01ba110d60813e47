"""TLS in front of a real PostgreSQL, whose embedded build has none: answers SSLRequest, then relays.

Certificates are made by openssl, for `localhost` alone, so that 127.0.0.1 is the same server by a wrong name.
"""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.proxy import proxied

REQUEST = bytes.fromhex("0000000804d2162f")  # SSLRequest: PostgreSQL documentation, 54.7


def make_certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate in NAME.crt, its key in NAME.key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / f"{name}.crt"


@asynccontextmanager
async def tls_front(database: str, certificate: Path) -> AsyncIterator[int]:
    """Yields a port of the server of `database` with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readexactly(len(REQUEST)) == REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
            await _relay(upstream_port, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client does not accept the certificate
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with proxied(database) as plain:
        upstream_port = urlsplit(plain.url).port
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _relay(port: int | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream, to_upstream = await asyncio.open_connection("127.0.0.1", port)
    pumps = [asyncio.create_task(_pump(reader, to_upstream)), asyncio.create_task(_pump(upstream, writer))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        to_upstream.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
