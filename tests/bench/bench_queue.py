"""The queue: how fast waiting exports are claimed, and in which order, by several servers.

    python -m tests.bench.bench_queue [--exports 1000] [--principals 10] [--servers 3] [--workers 3]

The exports wait before the first claim. Each server has a pool of its own, and each of its workers claims an export,
ends it at once, and claims the next. The order is fair if the numbers of exports that two principals have begun never
differ by more than the number of workers. The peer, in the same run: the same rows claimed by `FOR UPDATE SKIP LOCKED`
alone, without a lock, an order over principals and a limit. The database is the benchmarks' own.
"""

import argparse
import asyncio
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from streamer.jobs.queue import Queue
from streamer.jobs.store import Store
from streamer.jobs.times import JobTimes
from streamer.model import ExportRequest, ExportSpec, Principal
from streamer.postgres.driver import Pool
from streamer.postgres.pool import connect
from tests.bench.bench_export import database
from tests.conftest import new_database

FOLDER = UUID(int=1)
REQUEST = ExportRequest(spec=ExportSpec(dataset="users", columns=("id",)))
END = "UPDATE streamer.exports SET state = 'completed', finished_at = clock_timestamp() WHERE id = $1"
AGAIN = "UPDATE streamer.exports SET state = 'pending', epoch = 0, started_at = NULL, attempts = 0, server_id = NULL"
SKIP_LOCKED = """
    UPDATE streamer.exports SET state = 'processing', started_at = clock_timestamp()
    WHERE id = (
        SELECT id FROM streamer.exports WHERE state = 'pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id
"""


@dataclass
class Claims:
    """What all servers have claimed, with the seconds of each claim."""

    ids: list[UUID] = field(default_factory=list)
    principals: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def report(self, name: str, elapsed: float) -> str:
        hundredths = statistics.quantiles(self.seconds, n=100)
        return (
            f"{name:<12}{len(self.ids) / elapsed:>8.0f} claims/s   p50 {hundredths[49] * 1000:6.1f} ms"
            f"   p99 {hundredths[98] * 1000:6.1f} ms"
        )

    def largest_lead(self) -> int:
        """By how many exports one principal was ever ahead of another, until the first has none left."""
        total, begun, lead = Counter(self.principals), Counter(dict.fromkeys(self.principals, 0)), 0
        for principal in self.principals:
            begun[principal] += 1
            lead = max(lead, max(begun.values()) - min(begun.values()))
            if begun[principal] == total[principal]:
                break
        return lead


async def claim_fairly(queue: Queue, pool: Pool, claims: Claims) -> None:
    while True:
        begun = time.perf_counter()
        export = (await queue.claim()).export
        if export is None:
            return
        claims.seconds.append(time.perf_counter() - begun)
        claims.ids.append(export.id)
        claims.principals.append(export.principal)
        await pool.execute(END, export.id)


async def claim_oldest(pool: Pool, claims: Claims) -> None:
    while True:
        begun = time.perf_counter()
        export_id = await pool.fetchval(SKIP_LOCKED)
        if export_id is None:
            return
        claims.seconds.append(time.perf_counter() - begun)
        claims.ids.append(export_id)
        await pool.execute(END, export_id)


async def measure(url: str, options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        pools = []
        for _ in range(options.servers):
            pools.append(await connect(url, name="DATABASE_URL", size=options.workers, wait=10.0, resets=False))
            stack.push_async_callback(pools[-1].close)
        await Store(pools[0], uuid4(), JobTimes()).migrate()
        queues = [Queue(pool, uuid4(), JobTimes(), folder=FOLDER, capacity=options.exports) for pool in pools]
        begun = time.perf_counter()
        for number in range(options.exports):
            principal = Principal(name=f"key:{number % options.principals}")
            assert await queues[0].accept(uuid4(), REQUEST, principal, begin=False)
        print(f"accepted    {options.exports / (time.perf_counter() - begun):>8.0f} exports/s, one after the other")
        await pools[0].execute("VACUUM ANALYZE streamer.exports")

        fair, begun = Claims(), time.perf_counter()
        work = zip(queues, pools, strict=True)
        await asyncio.gather(*(claim_fairly(queue, pool, fair) for queue, pool in work for _ in range(options.workers)))
        print(fair.report("fair queue", time.perf_counter() - begun))
        assert len(fair.ids) == len(set(fair.ids)) == options.exports
        print(f"each export was claimed once; no principal was ever more than {fair.largest_lead()} ahead of another")

        await pools[0].execute(AGAIN)
        await pools[0].execute("VACUUM ANALYZE streamer.exports")
        oldest, begun = Claims(), time.perf_counter()
        await asyncio.gather(*(claim_oldest(pool, oldest) for pool in pools for _ in range(options.workers)))
        print(oldest.report("SKIP LOCKED", time.perf_counter() - begun))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exports", type=int, default=1000)
    parser.add_argument("--principals", type=int, default=10)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    with database() as url:
        async with new_database(url) as own:
            await measure(own, options)


if __name__ == "__main__":
    asyncio.run(main())
