"""The download of `pull` and `export`: to a file or to standard output, with a progress bar."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.coding import Coding
from streamer.commands.interrupts import exit_in_order_on_sigterm
from streamer.commands.output import (
    is_terminal,
    missing_rich,
    print_json,
    print_stderr,
    standard_output,
    translating_output_errors,
)

if TYPE_CHECKING:
    from uuid import UUID

    from streamer.client import Client, Export, ExportStatus, RetryPolicy
    from streamer.client.representation import Transfer
    from streamer.commands.bar import ProgressBar

STDOUT = "-"
POLL_INTERVAL = 0.5  # seconds between two status requests, for the progress bar
RETAINED_HEAP = 16 * 1024 * 1024  # bytes: much more than the chunks of a download that are in memory at once


@dataclass(frozen=True)
class DownloadOptions:
    """The options of a download, as the command line has them. `max_time` and `timeout` are in seconds."""

    output: str | None
    force: bool
    connections: int
    max_time: float | None
    max_tries: int
    timeout: float
    quiet: bool
    as_json: bool
    gzip: bool
    zstd: bool
    compressed: bool

    @property
    def retry_policy(self) -> "RetryPolicy":
        from streamer.client import RetryPolicy  # noqa: PLC0415 - see the package

        return RetryPolicy(attempts=self.max_tries, read_timeout=self.timeout)

    def transfer(self, named: Coding = Coding.IDENTITY) -> "Transfer":
        """`named` is the coding of the file that the URL names. Raises Refused if it cannot be decoded here."""
        from streamer.client.representation import Transfer  # noqa: PLC0415 - see the package

        coding = Coding.ZSTD if self.zstd else Coding.GZIP if self.gzip else None
        return Transfer.of(coding, decode=self.compressed, named=named)

    @property
    def of_transfer(self) -> list[str]:
        """The options that say how the bytes are transferred, to repeat them."""
        given = {"--gzip": self.gzip, "--zstd": self.zstd, "--compressed": self.compressed}
        return [option for option, is_given in given.items() if is_given]

    @property
    def to_stdout(self) -> bool:
        return self.output == STDOUT

    @property
    def shows_progress(self) -> bool:
        """Whether stderr is a terminal that the download itself does not write to."""
        return not self.quiet and is_terminal(sys.stderr) and not (self.to_stdout and is_terminal(sys.stdout))

    def target(self, export_id: "UUID", coding: Coding) -> Path:
        """Returns the path of the file; in a folder it has the default name. Raises LocalFileError."""
        default = f"export_{export_id}{coding.suffix}"
        path = Path(self.output or default)
        return path / default if _is_folder(path) else path

    def check(self) -> None:
        """Raises click.UsageError for an empty -o, and for options that exclude each other."""
        if self.output == "":
            raise click.UsageError("-o is empty; name a file, or leave it out for export_ID.csv")
        if self.to_stdout and self.as_json:
            raise click.UsageError("--json and -o - cannot be combined: both write to standard output")
        if self.gzip and self.zstd:
            raise click.UsageError("--gzip and --zstd exclude each other")
        if self.to_stdout and self.connections > 1:
            raise click.UsageError("--connections needs a file: standard output takes the bytes in their order")

    def check_output(self) -> None:
        """Raises LocalFileError if a new export could not be saved. To be called before the export is created."""
        from streamer.client.client import check_new_target  # noqa: PLC0415 - see the package

        if self.to_stdout:
            standard_output()
        elif self.output and not _is_folder(Path(self.output)):
            check_new_target(Path(self.output), force=self.force)


def _is_folder(path: Path) -> bool:
    """Raises LocalFileError."""
    from streamer.client.target import translating_os_errors  # noqa: PLC0415 - see the package

    with translating_os_errors(path):
        return path.is_dir()


@contextmanager
def progress_bar(options: DownloadOptions, path: Path, transfer: "Transfer") -> Iterator["ProgressBar | None"]:
    """Yields None if there is no terminal for a progress bar."""
    if not options.shows_progress:
        yield None
        return
    try:
        from streamer.commands.bar import ProgressBar  # noqa: PLC0415 - its packages are an extra of their own
    except ImportError as error:
        raise missing_rich("the progress bar", "--quiet") from error
    exit_in_order_on_sigterm()
    name, coding = path.name, transfer.coding
    if options.to_stdout:  # what is written there is counted
        name, coding = "standard output", transfer.file_coding
    with ProgressBar(name, coding) as bar:
        yield bar


async def download(
    client: "Client",
    *,
    target: str,
    path: Path,
    options: DownloadOptions,
    transfer: "Transfer",
    bar: "ProgressBar | None",
) -> dict[str, Any]:
    """Returns the members that `--json` prints; none for a download to standard output."""
    _retain_freed_memory()
    export = client.get(target)
    begin = time.monotonic()
    async with _polling_status(export, transfer, bar):
        if options.to_stdout:
            await _write_to_stdout(export, transfer, bar)
            return {}
        saved = await export.save(
            path,
            coding=transfer.coding,
            decode=transfer.decode,
            connections=options.connections,
            force=options.force,
        )
    return {
        "exitStatus": 0,
        "file": str(saved.path),
        "exportId": str(saved.export_id),
        "bytes": saved.bytes,
        "rows": saved.rows,
        "sha256": saved.sha256,
        "alreadyThere": saved.already_there,
        "seconds": round(time.monotonic() - begin, 3),
    }


def report(result: dict[str, Any], path: Path, options: DownloadOptions) -> None:
    if options.as_json:
        print_json(result)
    elif result and not options.quiet and is_terminal(sys.stderr):
        print_stderr(f"{path}: {result['rows']:,} rows, {result['bytes']:,} bytes, verified")


def resume_hint(path: Path, export_id: "UUID", coding: Coding) -> str | None:
    """Returns a sentence that says how to resume the partial file of `path`, if it has such bytes of this export."""
    from streamer.client import StreamerError  # noqa: PLC0415 - see the package
    from streamer.client.partial import resumable_part  # noqa: PLC0415

    with suppress(OSError, StreamerError):
        if part := resumable_part(path, export_id, coding):
            return f"{part} has the bytes received so far; the same command resumes it"
    return None


def _retain_freed_memory() -> None:
    """Makes glibc keep the memory of freed chunks for the next ones.

    glibc returns free memory beyond twice the size of the largest mapped block that was freed, and gets it back page by
    page. Freeing one large block, of which no page is touched, raises that threshold (mallopt(3), M_MMAP_THRESHOLD).
    With other allocators this has no effect.
    """
    bytes(RETAINED_HEAP)


async def _write_to_stdout(export: "Export", transfer: "Transfer", bar: "ProgressBar | None") -> None:
    fd, count = standard_output().fileno(), 0
    async with aclosing(export.stream(coding=transfer.coding, decode=transfer.decode)) as chunks:
        async for chunk in chunks:
            with translating_output_errors():
                await _in_daemon_thread(partial(_write, fd, chunk))
            count += len(chunk)
            if bar:
                bar.received(count)


def _write(fd: int, chunk: bytes) -> None:
    """Writes without a buffer."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    """Waits for the work. The exit of the process does not wait for it: a write to a pipe may block forever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        failure = None
        try:
            work()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: there is no waiter left
            loop.call_soon_threadsafe(_settle, done, failure)

    threading.Thread(target=run, daemon=True, name="output").start()
    await done


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():  # cancelled
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)


@asynccontextmanager
async def _polling_status(export: "Export", transfer: "Transfer", bar: "ProgressBar | None") -> AsyncIterator[None]:
    """Updates the bar with the status of the server. Errors are ignored, because the download reports them."""
    task = asyncio.create_task(_poll_status(export, transfer)) if bar else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            await asyncio.wait({task})


async def _poll_status(export: "Export", transfer: "Transfer") -> None:
    """The client passes every status to its ProgressListener, which is the bar."""
    from streamer.client import StreamerError  # noqa: PLC0415 - see the package

    while True:
        await asyncio.sleep(POLL_INTERVAL)
        with suppress(StreamerError):
            if _is_last(await export.status(retry=False), transfer.coding):
                return


def _is_last(status: "ExportStatus", coding: Coding) -> bool:
    """Whether the bar can learn nothing more. A compressed file may be finished later than the export."""
    from streamer.client.representation import Representation  # noqa: PLC0415 - see the package

    return status.final and (not status.completed or Representation.of(status, coding).completed)
