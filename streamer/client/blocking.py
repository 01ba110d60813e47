"""Blocking functions for scripts and notebooks.

The work runs on an event loop in a thread of its own, so these functions can also be called while another loop is
running, as in Jupyter. Ctrl-C interrupts the calling thread, which cancels the work and waits for its end.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from streamer.client.address import address_of
from streamer.client.client import Client, check_new_target, time_limit
from streamer.client.saving import Saved

Result = TypeVar("Result")


def pull(
    url: str,
    path: str | Path,
    *,
    api_key: str | None = None,
    connections: int = 1,
    force: bool = False,
    max_time: float | None = None,
) -> Saved:
    """Downloads the export with this URL, as `Export.save` does."""
    address = address_of(url, server="")

    async def work() -> Saved:
        async with Client(address.server, api_key) as client:
            return await client.get(url).save(path, connections=connections, force=force, max_time=max_time)

    return _run(work())


def export_to(
    path: str | Path,
    *,
    url: str,
    api_key: str | None = None,
    force: bool = False,
    max_time: float | None = None,
    dataset: str = "users",
    columns: Sequence[str] | str | None = None,
    where: Mapping[str, Any] | None = None,
    label: str | None = None,
    ttl: str | float | timedelta | None = None,
    **parameters: Any,
) -> Saved:
    """Creates an export on the server with this URL and downloads it, as `Client.export` and `Export.save` do.

    `max_time` is in seconds, for both together.
    """
    check_new_target(Path(path), force=force)

    async def work() -> Saved:
        async with Client(url, api_key) as client, time_limit(max_time):
            export = await client.export(
                dataset=dataset, columns=columns, where=where, label=label, ttl=ttl, **parameters
            )
            return await export.save(path, force=force)

    return _run(work())


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def interruptible() -> Result:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="streamer") as thread:
        running = thread.submit(lambda: asyncio.run(interruptible()))
        try:
            return running.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            if task and not running.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
