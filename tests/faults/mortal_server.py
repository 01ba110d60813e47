"""A server with short leases, as a process that ends or pauses itself at a statement of the store.

    DIES_AT="claim after SIGKILL 2" python -m tests.faults.mortal_server

sends itself the signal after the second `claim` since it serves; without DIES_AT it lives on. `lock_queue` and `COMMIT`
are statements, too. A paused process goes on when it gets SIGCONT.
"""

import asyncio
import os
import signal
from datetime import timedelta
from typing import Any

from streamer.config import read_settings
from streamer.jobs.table import STATEMENTS, Table
from streamer.jobs.times import JobTimes
from streamer.postgres.driver import LimitedConnection
from streamer.server import serving
from streamer.server.tuning import Tuning

LEASE = 1.5  # seconds
TUNING = Tuning(
    jobs=JobTimes(
        lease=timedelta(seconds=LEASE),
        renewal=timedelta(seconds=LEASE / 5),
        report_interval=0.05,
        sweep_interval=1.0,  # a server that was paused may leave a file after its export has failed elsewhere
        poll_interval=0.2,
        beat_interval=0.1,
        dead_after=timedelta(seconds=0.5),
        judging_age=2.0,
        retry_delay=timedelta(seconds=0.05),
    )
)
IN_QUEUE = {STATEMENTS["lock_queue"]: "lock_queue", "COMMIT": "COMMIT"}


def die_at(point: str) -> None:
    """Sends this process a signal before or after the given execution of a statement."""
    wanted, when, name, count = point.split()
    left = int(count)

    def meet(statement: str, moment: str) -> None:
        nonlocal left
        if (statement, moment) == (wanted, when):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.Signals[name])

    fetch, execute = Table._fetch, LimitedConnection.execute

    async def fetching(self: Table, connection: Any, statement: str, *arguments: object) -> Any:
        meet(statement, "before")
        rows = await fetch(self, connection, statement, *arguments)
        meet(statement, "after")
        return rows

    async def executing(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
        statement = IN_QUEUE.get(query, "")
        meet(statement, "before")
        result = await execute(self, query, *arguments, **named)
        meet(statement, "after")
        return result

    Table._fetch = fetching  # type: ignore[method-assign]
    LimitedConnection.execute = executing


async def main() -> None:
    point = os.environ.pop("DIES_AT", "")
    async with serving(read_settings(os.environ), tuning=TUNING) as url:
        print(f"serving on {url}", flush=True)
        if point:
            die_at(point)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
