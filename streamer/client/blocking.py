"""The same for scripts and notebooks, where nobody wants to await.

The work is done on an event loop of its own, in a thread of its own: so it works as well where a loop is running
already, as in Jupyter. Ctrl-C is heard by the thread that waits, and ends the work before it goes on its way.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from streamer.client.address import address_of
from streamer.client.client import Client, check_new_target, within
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
    """Starts an export at the server with this URL and downloads it, as `Client.export` and `Export.save` do.

    `max_time` is for both together.
    """
    check_new_target(Path(path), force=force)

    async def work() -> Saved:
        async with Client(url, api_key) as client, within(max_time):
            export = await client.export(
                dataset=dataset, columns=columns, where=where, label=label, ttl=ttl, **parameters
            )
            return await export.save(path, force=force)

    return _run(work())


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def interruptible() -> Result:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="streamer") as thread:
        running = thread.submit(lambda: asyncio.run(interruptible()))
        try:
            return running.result()
        except KeyboardInterrupt:
            loop, task = begun.result()
            if task and not running.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
