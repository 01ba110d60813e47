"""The checks of the send timeout, on transports without a socket."""

import asyncio
from typing import Any

from streamer.http.net.send_timeout import GROUP, SendTimeout


class CountingTransport(asyncio.Transport):
    """Counts the checks of all its instances."""

    checks = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        CountingTransport.checks += 1
        return default


async def test_event_loop_runs_between_two_groups_of_checks() -> None:
    send_timeout = SendTimeout(0.001)
    transports = [CountingTransport() for _ in range(5 * GROUP)]
    for transport in transports:
        send_timeout.add(transport)
    before = CountingTransport.checks
    checking = asyncio.create_task(send_timeout.run())
    largest = last = 0
    async with asyncio.timeout(20):
        while last < len(transports):
            await asyncio.sleep(0)
            checks = CountingTransport.checks - before
            largest, last = max(largest, checks - last), checks
    checking.cancel()
    assert largest == GROUP
