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
from streamer.client.representation import Transfer
from streamer.client.saving import Saved

Result = TypeVar("Result")


def pull(
    url: str,
    path: str | Path,
    *,
    api_key: str | None = None,
    coding: str | None = None,
    decode: bool = False,
    connections: int = 1,
    force: bool = False,
    max_time: float | None = None,
) -> Saved:
    """Downloads an export to a file, as `Export.save` does. Blocks until the file is complete and verified.

    Args:
        url: The URL of the export, such as `http://127.0.0.1:8080/exports/ID/download`.
        path: Where to save the file.
        api_key: Sent as a bearer token.
        coding: "gzip" or "zstd" saves the compressed file, as for `Export.save`.
        decode: Saves the CSV, and compresses only the transfer, as for `Export.save`.
        connections: Fetches the pieces of a completed file over this number of connections.
        force: Replaces an existing file, and a PATH.part of another export.
        max_time: Gives up after this number of seconds. None: no limit.

    Returns:
        What was saved: path, rows, bytes and SHA-256.

    Raises:
        LocalFileError, ExportFailed, ExportGone, GaveUp, VerificationFailed, Refused, ValueError: As `Export.save`.
    """
    address = address_of(url, server="")

    async def work() -> Saved:
        async with Client(address.server, api_key) as client:
            return await client.get(url).save(
                path, coding=coding, decode=decode, connections=connections, force=force, max_time=max_time
            )

    return _run(work())


def export_to(
    path: str | Path,
    *,
    url: str,
    api_key: str | None = None,
    coding: str | None = None,
    decode: bool = False,
    force: bool = False,
    max_time: float | None = None,
    dataset: str | None = None,
    columns: Sequence[str] | str | None = None,
    where: Mapping[str, Any] | None = None,
    label: str | None = None,
    ttl: str | float | timedelta | None = None,
    **parameters: Any,
) -> Saved:
    """Creates an export and downloads it to a file. Blocks until the file is complete and verified.

    Args:
        path: Where to save the file.
        url: The address of the server, such as `http://127.0.0.1:8080`.
        api_key: Sent as a bearer token.
        coding: "gzip" or "zstd" saves the compressed file, as for `Export.save`. None: the CSV.
        decode: Saves the CSV, and compresses only the transfer, as for `Export.save`.
        force: Replaces an existing file, and a PATH.part of another export.
        max_time: Gives up after this number of seconds, which include the creation. None: no limit.
        dataset: Its name. None: `users`, or the only dataset of the server.
        columns: The names of the columns, in the order of the file. None: all.
        where: The conditions, as for `Client.export`.
        label: A text that the server shows and searches.
        ttl: How long the server keeps the file: a text such as "2h", a number of seconds, or a timedelta.
        parameters: The other parameters of the API, such as `limit=100`.

    Returns:
        What was saved: path, rows, bytes and SHA-256.

    Raises:
        TypeError, ValueError: A value cannot be sent, such as None in `where`; or there is no such `coding`.
        LocalFileError, ExportFailed, ExportGone, GaveUp, VerificationFailed, Refused: As `Export.save`.

    Example:
        from streamer.client import export_to

        saved = export_to("first.csv", url="http://127.0.0.1:8080", where={"id__lte": 100}, columns=["id", "email"])
        print(saved.rows, "rows,", saved.bytes, "bytes, SHA-256", saved.sha256)
    """
    check_new_target(Path(path), force=force)
    Transfer.of(coding, decode=decode)

    async def work() -> Saved:
        async with Client(url, api_key) as client, time_limit(max_time):
            export = await client.export(
                dataset=dataset, columns=columns, where=where, label=label, ttl=ttl, **parameters
            )
            return await export.save(path, coding=coding, decode=decode, force=force)

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
