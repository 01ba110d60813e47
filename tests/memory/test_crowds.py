"""Scenarios 3 and 4: crowds on one export and on its compressed file, of whom many are slow or have stopped."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.conftest import connected
from tests.exporting import RemoteExport, create
from tests.gates import Gates
from tests.memory.clients import Crowd, compare, crowd, health_polled, sha256_of
from tests.memory.confined import Confined
from tests.memory.conftest import Report, Rig
from tests.memory.crowd import Followed, Order

CHANCE = random.Random(20260207)
POLL = 0.02  # seconds between two questions to /health
ROWS = 500_000  # of some 103 bytes
GATES = range(100_000, ROWS, 100_000)
FIRST = 9_000_000  # bytes that are there before the first gate, and a few more
STAY = 4.0  # seconds that the export stands at each gate, so that it is live for long
PROCESSES = 2  # of clients
FIRST_GZIP = 2_000_000  # compressed bytes that are there soon after the first gate was reached
KB = 1024

pytestmark = [pytest.mark.memory, pytest.mark.timeout(900)]


@asynccontextmanager
async def crowds(server: Confined, orders: Sequence[Order]) -> AsyncIterator[list[Crowd]]:
    """Shared out among several processes, of which each gets some of every kind; there are all when this is entered."""
    async with AsyncExitStack() as stack:
        shares = [orders[first::PROCESSES] for first in range(PROCESSES)]
        running = [await stack.enter_async_context(crowd(server, share)) for share in shares]
        for one in running:
            await one.there()
        yield running


async def stopped(running: Sequence[Crowd]) -> list[Followed]:
    return list(itertools.chain(*await asyncio.gather(*(one.stopped() for one in running))))


async def led_through(gates: Gates, view: str) -> None:
    for gate in GATES:
        await gates.reached(view, gate)
        await asyncio.sleep(STAY)
        await gates.open(view, gate)


@asynccontextmanager
async def gated(scratch: str) -> AsyncIterator[Gates]:
    async with connected(scratch) as connection:
        gates = Gates(connection, scratch)
        await gates.view("gated", rows=ROWS)
        for gate in GATES:
            await gates.shut("gated", gate)
        yield gates


async def sealed_well(export: RemoteExport, spool: Path) -> Path:
    status = await export.until("completed")
    file = spool / export.file_name
    assert status["sha256"] == sha256_of(file)
    assert status["progress"]["processedRows"] == ROWS
    return file


async def test_a_thousand_followers_of_whom_many_are_slow_or_stop(rig: Rig, used: Report) -> None:
    def place() -> int:
        return CHANCE.randrange(FIRST)

    orders = [Order(path="", digest=number < 10) for number in range(600)]
    orders += [Order(path="", pace=100 * KB, start=place()) for _ in range(300)]
    orders += [Order(path="", start=place(), stop=0) for _ in range(50)]
    orders += [Order(path="", stop=place()) for _ in range(50)]
    async with gated(rig.scratch) as gates, rig.start(source=rig.scratch, DATASETS="gated") as server:
        export = await create(rig.session, server.url, dataset="gated")
        await gates.reached("gated", GATES[0])
        before, idle = server.cpu(), server.sample()
        async with health_polled(server, POLL) as poll, crowds(server, of(export, orders)) as running:
            after = server.sample()
            await led_through(gates, "gated")
            found = await stopped(running)
        used.add(
            "3. 1,000 followers, 300 at 100 KB/s, 100 stopped",
            server.used(),
            compare(await sealed_well(export, rig.spool), found),
            f"server: {server.cpu() - before:.1f} s of CPU",
            f"a follower: {(after.anonymous - idle.anonymous) / len(orders) / KB:.1f} kB anonymous, "
            f"{(after.kernel - idle.kernel) / len(orders) / KB:.1f} kB of the kernel",
            poll.latencies.sentence,
        )
        assert sum(one.end == "whole" for one in found) == 600


async def test_a_thousand_followers_of_one_gzip_of_whom_many_are_slow_or_stop(rig: Rig, used: Report) -> None:
    """One compression serves all. Most take the file as it is; to decompress it a thousand times would measure them."""

    def place() -> int:
        return CHANCE.randrange(FIRST_GZIP)

    files = [Order(path="", digest=number < 10) for number in range(580)]
    files += [Order(path="", pace=30 * KB, start=place()) for _ in range(300)]
    files += [Order(path="", start=place(), stop=0) for _ in range(50)]
    files += [Order(path="", stop=place()) for _ in range(50)]
    decoding = [Order(path="", gzip=True, digest=True) for _ in range(20)]
    async with gated(rig.scratch) as gates, rig.start(source=rig.scratch, DATASETS="gated") as server:
        export = await create(rig.session, server.url, dataset="gated")
        await gates.reached("gated", GATES[0])
        before, idle = server.cpu(), server.sample()
        orders = of(export, files, suffix=".csv.gz") + of(export, decoding)
        async with health_polled(server, POLL) as poll, crowds(server, orders) as running:
            after = server.sample()
            await led_through(gates, "gated")
            found = await stopped(running)
        whole = await sealed_well(export, rig.spool)
        used.add(
            "4. 1,000 followers of one gzip, 300 at 30 KB/s, 100 stopped",
            server.used(),
            compare(whole.with_suffix(".csv.gz"), [one for one in found if not one.gzip]),
            f"{compare(whole, [one for one in found if one.gzip])}, decompressed",
            f"server: {server.cpu() - before:.1f} s of CPU",
            f"a follower: {(after.anonymous - idle.anonymous) / len(orders) / KB:.1f} kB anonymous, "
            f"{(after.kernel - idle.kernel) / len(orders) / KB:.1f} kB of the kernel",
            poll.latencies.sentence,
        )
        assert sum(one.end == "whole" for one in found) == 600


async def test_a_thousand_stop_at_different_places_of_a_large_file(rig: Rig, used: Report) -> None:
    """What waits for a client on the same machine waits in pages of the file, which cannot be taken back meanwhile."""
    async with rig.start() as server:
        export = await create(rig.session, server.url)
        status = await export.until("completed", within=120)
        assert status["sha256"] == rig.big.digest
        size = (rig.spool / export.file_name).stat().st_size
        places = [CHANCE.randrange(size - 100_000_000) for _ in range(950)]
        orders = [Order(path="", start=place, stop=0) for place in places[:800]]
        orders += [Order(path="", start=place, stop=1_000_000, receive_buffer=4 << 20) for place in places[800:]]
        async with health_polled(server, POLL) as poll, crowds(server, of(export, orders)) as running:
            others = [await create(rig.session, server.url) for _ in range(3)]
            for other in others:
                status = await other.until("completed", within=240)
                assert status["sha256"] == rig.big.digest
            found = await stopped(running)
        used.add(
            "3b. 950 stop at different places of 0.9 GB",
            server.used(),
            compare(rig.spool / export.file_name, found),
            "and three exports of 10,000,000 rows beside them",
            poll.latencies.sentence,
        )


def of(export: RemoteExport, orders: Sequence[Order], suffix: str = "") -> list[Order]:
    """The orders, of this export or of its file with the suffix, in any order."""
    mixed = [msgspec.structs.replace(order, path=export.path + suffix) for order in orders]
    CHANCE.shuffle(mixed)
    return mixed
