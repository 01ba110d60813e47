"""Scenario 6: clients that want to do harm, or do not know better."""

import asyncio
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.conftest import connected
from tests.exporting import create
from tests.gates import Gates
from tests.memory.clients import health_polled
from tests.memory.conftest import Report, Rig
from tests.memory.idlers import Outcome

POLL = 0.02
SECONDS = 20
CONNECTIONS = 2400  # of one attack
PROCESSES = 2
IDLE = 20_000
PIPELINED = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" * 1800  # some 64 kB
FLOOD = 8.0  # seconds

ATTACKS = {
    "slow headers": ("-H", "-i", "5", "-x", "24"),
    "slow bodies": ("-B", "-i", "5", "-s", "65536", "-x", "10"),
    "slow read": ("-X", "-w", "1", "-y", "512", "-n", "5", "-z", "32", "-k", "3"),
    "many ranges": ("-R", "-a", "1", "-b", "3000"),
}

pytestmark = [pytest.mark.memory, pytest.mark.timeout(600)]


@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="slowhttptest is not installed")
@pytest.mark.parametrize("attack", ATTACKS)
async def test_slowhttptest(rig: Rig, used: Report, attack: str) -> None:
    async with rig.start(DATASETS="users") as server:
        export = await create(rig.session, server.url, id__lte="1000000")
        await export.until("completed")
        url = f"{server.url}/exports/csv" if attack == "slow bodies" else export.download
        async with health_polled(server, POLL) as poll:
            attacker = await asyncio.create_subprocess_exec(
                *("slowhttptest", "-c", str(CONNECTIONS), "-r", "400", "-l", str(SECONDS), "-p", "5"),
                *(*ATTACKS[attack], "-u", url),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            await attacker.wait()
        async with rig.session.get(f"{server.url}/health") as response:
            assert response.status == 200
        used.add(f"6. slowhttptest: {attack}", server.used(), poll.latencies.sentence)


async def test_twenty_thousand_idle_connections(rig: Rig, used: Report) -> None:
    async with rig.start(DATASETS="users") as server:
        host, port = server.address
        each = min(IDLE // PROCESSES, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)
        async with health_polled(server, POLL) as poll:
            idlers = [
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.memory.idlers", host, str(port), str(each)),
                    cwd=Path(__file__).parents[2],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                for _ in range(PROCESSES)
            ]
            lines = [await one.stdout.readline() for one in idlers if one.stdout]
        outcomes = [msgspec.json.decode(line, type=Outcome) for line in lines]
        open_, refused, reset = (sum(getattr(one, name) for one in outcomes) for name in ("open", "refused", "reset"))
        figures = server.used()
        for one in idlers:
            await one.communicate(b"\n")
        used.add(
            f"6. {each * PROCESSES:,} idle connections",
            figures,
            f"{open_:,} stay open, {refused:,} refused with 503, {reset:,} closed without a word",
            poll.latencies.sentence,
        )
        assert open_ < 3000
        assert refused > 0


@pytest.mark.parametrize("answer", ["waits", "is not read"])
async def test_requests_one_behind_the_other(rig: Rig, used: Report, answer: str) -> None:
    """What nobody reads fills the receive buffers; what is read and must wait fills the parser."""
    async with connected(rig.scratch) as connection:
        gates = Gates(connection, rig.scratch)
        await gates.view("gated", rows=500_000)
        await gates.shut("gated", 100_000)
        async with rig.start(source=rig.scratch, DATASETS="gated") as server:
            export = await create(rig.session, server.url, dataset="gated")
            await gates.reached("gated", 100_000)
            beyond = "Range: bytes=40000000-\r\n" if answer == "waits" else ""
            request = f"GET {export.path} HTTP/1.1\r\nHost: test\r\n{beyond}\r\n".encode()
            ends = await asyncio.to_thread(_flood, server.address, request)
            used.add(f"6. {CONNECTIONS:,} pipeline, while the answer {answer}", server.used(), f"{dict(ends)}")


def _flood(address: tuple[str, int], request: bytes) -> Counter[str]:
    """Every connection asks, and then goes on asking without reading."""
    connections = []
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(address)
        connection.sendall(request)
        connection.setblocking(False)
        connections.append(connection)
    ends: Counter[str] = Counter()
    deadline = time.monotonic() + FLOOD
    while connections and time.monotonic() < deadline:
        for connection in connections[:]:
            try:
                connection.send(PIPELINED)
            except BlockingIOError:
                continue
            except ConnectionError as error:
                ends[type(error).__name__] += 1
                connections.remove(connection)
                connection.close()
    ends["still open"] = len(connections)
    for connection in connections:
        connection.close()
    return ends
