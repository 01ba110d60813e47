"""The signals of the server process: SIGINT and SIGTERM stop it, SIGHUP reads the datasets again."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.errors import StartError
from streamer.source.catalog.catalog import Catalog

log = logging.getLogger(__name__)


def cancel_on_signal(task: "asyncio.Task[None]") -> asyncio.Event:
    """Lets the first SIGINT or SIGTERM cancel the task; the event is then set. A second signal ends the process."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # the next one has its usual, immediate effect
        if os.getpid() == 1:  # in a container: the kernel drops a signal for which process 1 has no handler
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
        stopped.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return stopped


@contextmanager
def reread_on_hangup(catalog: Catalog) -> Iterator[None]:
    """Reads the datasets again at each SIGHUP, while the context is open. An error is logged, and changes nothing."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = asyncio.create_task(_reread(catalog), name="datasets")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()


async def _reread(catalog: Catalog) -> None:
    try:
        await catalog.reread()
        log.info("the datasets were read again: %d", len(catalog))
    except StartError as error:
        log.error("the datasets stay as they were: %s", error)  # noqa: TRY400 - it is one line, as at the start
    except Exception:
        log.exception("the datasets stay as they were")
