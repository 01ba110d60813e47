"""Downloads that break at any moment: no client takes what it has for the whole, connected directly or by a relay.

The server is the real process, so that it can be killed. The relay makes a FIN of every reset, and GNU wget takes a FIN
within a chunk for the end of the body.
"""

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.clients import grown
from tests.acceptance.process import Process, killed, streamer
from tests.acceptance.relay import ClosingRelay, relaying
from tests.exporting import RemoteExport, create
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE
from tests.rawhttp import End, connection

ROWS = 200_000  # 20 MB
GATE = 190_000
LONGEST_WAIT = 0.15  # seconds in which a fast client has got most of that
ENDS = ("cancelled", "failed", "stopped", "killed")
SIGNALS = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}
CURL = ("curl", "-qfsSN", "--noproxy", "*", "-o", "{name}")
WGET = ("wget", "--no-config", "--no-proxy", "-q", "--tries=1", "-O", "{name}")
CLIENTS: tuple[tuple[str, ...], ...] = (
    CURL,
    (*CURL, "--compressed"),
    (*CURL, "-r", "1000-"),
    WGET,
    (*WGET, "--limit-rate=40M"),
    (*WGET, "--compression=auto"),
    (*WGET, "-c"),
)
THERE = gated_csv(100)[:1000]  # what is resumed
RECEIVE = 64 * 1024  # bytes of a slow client's buffer

pytestmark = pytest.mark.skipif(
    shutil.which("wget") is None or shutil.which("curl") is None, reason="wget or curl is not installed"
)


@dataclass(frozen=True)
class Running:
    """A server, and an export that stands at the gate for good: nothing that anybody gets is the whole."""

    process: Process
    url: str
    gates: Gates
    export: RemoteExport

    async def end(self, how: str) -> None:
        if how == "cancelled":
            assert await self.export.delete() == 204
        elif how == "failed":
            await self.gates.refuse()
        else:
            self.process.signal(SIGNALS[how])


@pytest.fixture
async def running(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> AsyncIterator[Running]:
    await gates.view("gated", rows=ROWS)
    await gates.shut("gated", GATE)
    settings = {"DATABASE_URL": database, "API_PORT": "0", "DATASETS": "gated", "SHUTDOWN_TIMEOUT": "0"}
    async with streamer("serve", folder=tmp_path, environment=settings) as process:
        url = await process.url()
        export = await create(session, url, dataset="gated")
        await gates.reached("gated", GATE)
        yield Running(process, url, gates, export)


@asynccontextmanager
async def begun(command: Sequence[str], url: str, target: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client that has got its first bytes."""
    there = THERE if "-c" in command else b""
    await asyncio.to_thread(target.write_bytes, there)
    process = await asyncio.create_subprocess_exec(
        *(argument.format(name=target) for argument in command), url, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await grown(target, len(there) + 1)
        yield process
    finally:
        await killed(process)


async def check_clients(running: Running, folder: Path, how: str, chance: random.Random) -> None:
    async with relaying(ClosingRelay(running.url)) as relayed, AsyncExitStack() as stack:
        wanted = [(command, url) for command in CLIENTS for url in (running.url, relayed)]
        chance.shuffle(wanted)  # the first two that come are no crowd
        entering = [
            stack.enter_async_context(begun(command, url + running.export.path, folder / str(number)))
            for number, (command, url) in enumerate(wanted)
        ]
        clients = await asyncio.gather(*entering)
        await asyncio.sleep(chance.uniform(0, LONGEST_WAIT))
        await running.end(how)
        async with asyncio.timeout(PATIENCE):
            codes = [await process.wait() for process in clients]
    for (command, url), code in sorted(zip(wanted, codes, strict=True)):
        print(how, "directly" if url == running.url else "relayed", *command, "exit", code)
    deceived = [each for each, code in zip(wanted, codes, strict=True) if code == 0]
    assert not deceived, f"{how}, at {running.url} directly: {deceived}"


@pytest.mark.parametrize("how", ENDS)
async def test_every_client_sees_a_break_directly_and_through_a_relay(
    running: Running, tmp_path: Path, how: str
) -> None:
    await check_clients(running, tmp_path, how, random.Random(how))


@pytest.mark.parametrize("how", SIGNALS)
async def test_what_came_before_a_break_ends_between_two_chunks(running: Running, how: str) -> None:
    """Slow clients, whose sockets are full in that moment, in every kind of chunked body."""
    asked: list[Mapping[str, str]] = [
        {},
        {"Accept-Encoding": "gzip"},
        {"Range": "bytes=1000-"},
        {"Range": "bytes=0-999999999"},
    ] * 2
    async with AsyncExitStack() as stack:
        bodies = []
        for fields in asked:
            client = await stack.enter_async_context(connection(running.url, receive=RECEIVE))
            await client.send("GET", running.export.path, fields)
            _, body = await client.begin()
            await body.grow_to(10_000)
            bodies.append(body)
        await running.end(how)
        assert await asyncio.gather(*(body.finish() for body in bodies)) == [End.CLOSED] * len(bodies)
    whole = gated_csv(ROWS)
    for fields, body in zip(asked, bodies, strict=True):
        if "Accept-Encoding" not in fields:
            start = 1000 if fields.get("Range") == "bytes=1000-" else 0
            assert body.received == whole[start : start + len(body.received)]
            assert len(body.received) < len(whole) - start


@pytest.mark.sweep
@pytest.mark.parametrize("attempt", range(40))
@pytest.mark.parametrize("how", ENDS)
async def test_every_client_sees_a_break_at_any_moment(
    running: Running, tmp_path: Path, how: str, attempt: int
) -> None:
    await check_clients(running, tmp_path, how, random.Random(attempt))
