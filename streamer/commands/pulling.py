"""`streamer pull` and `streamer export`: a verified file, or an exit status that says why not."""

import asyncio
import os
import signal
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

from streamer.commands.interrupts import interrupts
from streamer.commands.options import (
    ask,
    complain,
    is_terminal,
    json_option,
    key_for,
    needs_rich,
    output,
    print_json,
    reported,
    server_options,
    told_of_output,
)

if TYPE_CHECKING:
    from streamer.client import Client, Export, RetryPolicy
    from streamer.commands.bar import Bar

STDOUT = "-"
POLL = 0.5  # seconds between two looks at a status, for the progress bar
KEPT = 16 * 1024 * 1024  # bytes: much more than the chunks of a download that are in memory at once
OPTIONS = {
    "dataset": "--dataset",
    "columns": "--columns",
    "filters": "--where",
    "where": "--where",
    "label": "--label",
    "ttl": "--ttl",
}
EXIT_STATUSES = """
\b
Exit status:
  0    FILE is there, whole and verified
  1    refused by the server, or FILE cannot be written
  2    wrong usage
  3    the export failed on the server
  4    the export was cancelled or deleted, has expired, or never was
  5    gave up: --max-time is over, or too many tries brought nothing
  6    verification failed: not the bytes that the server sealed
  130  interrupted
  141  the reader of standard output has left (-o - | head)

After 1, 5 and 130 the same `streamer pull` goes on with FILE.part.
"""


@dataclass(frozen=True)
class Wish:
    """How a download is to be done."""

    output: str | None
    force: bool
    connections: int
    max_time: float | None
    retries: int
    timeout: float
    quiet: bool
    as_json: bool

    @property
    def patience(self) -> "RetryPolicy":
        from streamer.client import RetryPolicy  # noqa: PLC0415 - see the package

        return RetryPolicy(attempts=self.retries, read_timeout=self.timeout)

    @property
    def to_stdout(self) -> bool:
        return self.output == STDOUT

    def target(self, default: str) -> Path:
        """In a folder that is named the file has its default name. Raises LocalFileError."""
        path = Path(self.output or default)
        return path / default if _is_folder(path) else path

    def check_output(self) -> None:
        """Raises LocalFileError where a new export could not be saved, before it is begun."""
        from streamer.client.client import check_new_target  # noqa: PLC0415 - see the package

        if self.to_stdout:
            output()
        elif self.output and not _is_folder(Path(self.output)):
            check_new_target(Path(self.output), force=self.force)

    def check(self) -> None:
        if self.to_stdout and self.as_json:
            raise click.UsageError("--json writes to standard output, and so does -o -")
        if self.to_stdout and self.connections > 1:
            raise click.UsageError("-o - takes the bytes in their order: --connections is for files")


def _is_folder(path: Path) -> bool:
    """Raises LocalFileError."""
    from streamer.client.target import told  # noqa: PLC0415 - see the package

    with told(path):
        return path.is_dir()


Command = Callable[..., None]


def download_options(command: Command) -> Command:
    command = server_options(json_option(command))
    for option in reversed(
        [
            click.option("-o", "--output", metavar="FILE", help="Where to save; `-` is standard output."),
            click.option("--force", is_flag=True, help="Replace FILE, and a FILE.part of another export."),
            click.option(
                "--max-time", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Give up then."
            ),
            click.option(
                "--retries",
                type=click.IntRange(min=1),
                default=10,
                show_default=True,
                help="Tries in a row that may bring nothing.",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0, min_open=True),
                default=30.0,
                show_default=True,
                metavar="SECONDS",
                help="A connection that is silent for so long is given up for a new one.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress bar. There is none without a terminal."),
        ]
    ):
        command = option(command)
    return command


@click.command(epilog=EXIT_STATUSES)
@click.argument("target", metavar="URL|EXPORT_ID")
@download_options
@click.option(
    "--connections",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Fetch a completed export in pieces, so many at once.",
)
def pull(target: str, server: str, api_key: str | None, **options: Any) -> None:
    """Download an export, to its end, whatever breaks on the way.

    An export that is still running is followed. What breaks is gone on with, also by the next run: until FILE is whole
    and its SHA-256 is that of the server, it is called FILE.part. Without -o, FILE is export_ID.csv.

    \b
    Examples:
      streamer pull http://127.0.0.1:8080/exports/ID/download -o users.csv
      streamer pull ID --connections 4 -o users.csv
      streamer pull ID -o - | gzip > users.csv.gz
    """
    wish = Wish(**options)
    wish.check()
    with reported(as_json=wish.as_json):
        from streamer.client.address import address_of  # noqa: PLC0415 - see the package

        address = address_of(target, server)
        path = wish.target(f"export_{address.export_id}.csv")
    with reported(as_json=wish.as_json, remedy=lambda: _kept(path, "the same command")):
        with _watched(wish, path) as bar:
            key = key_for(target, server, api_key)
            work = partial(_fetch, target=target, path=path, wish=wish, bar=bar)
            result = ask(address.server, key, work, patience=wish.patience, watcher=bar, max_time=wish.max_time)
        _done(result, path, wish)


@click.command(epilog=EXIT_STATUSES)
@click.option("--dataset", default="users", show_default=True, help="What to export.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="A condition; COLUMN__gte, __gt, __lte, __lt compare. Several for one column: any of them.",
)
@click.option("--columns", metavar="NAMES", help="Separated by commas, in this order; all by default.")
@click.option("--label", metavar="TEXT", help="Shown by the server, and searched for by `ls --label`.")
@click.option("--ttl", metavar="DURATION", help="How long the file stays on the server: 90, 60s, 5m, 2h or 1d.")
@click.option("--set", "parameters", multiple=True, metavar="NAME=VALUE", help="Any other parameter: delimiter=tab.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the export on the server without asking.")
@download_options
def export(
    *,
    dataset: str,
    conditions: tuple[str, ...],
    columns: str | None,
    label: str | None,
    ttl: str | None,
    parameters: tuple[str, ...],
    cancel_on_interrupt: bool,
    server: str,
    api_key: str | None,
    **options: Any,
) -> None:
    """Start an export and download it, in one.

    Ctrl-C asks whether the export is to be cancelled on the server, too; without a terminal it goes on there.

    \b
    Examples:
      streamer export --where country_code=US --columns id,email -o us.csv
      streamer export --where lifetime_value__gte=500 --set delimiter=tab -o best.tsv
    """
    wish = Wish(connections=1, **options)
    wish.check()
    asked = {
        "dataset": dataset,
        "columns": columns,
        "where": _pairs(conditions),
        "label": label,
        "ttl": ttl,
        **_others(parameters),
    }
    begun = _Begun(wish)
    with reported(as_json=wish.as_json, remedy=begun.how_to_go_on):
        wish.check_output()
        try:
            with _watched(wish, Path(wish.output or "export")) as bar:
                work = partial(begun.fetch, asked=asked, bar=bar)
                result = ask(server, api_key, work, patience=wish.patience, watcher=bar, max_time=wish.max_time)
        except KeyboardInterrupt:
            if begun.url and (cancel_on_interrupt or _wants_to_cancel()):
                ask(server, api_key, begun.cancel)
            raise
        _done(result, begun.path, wish)


class _Begun:
    """The export that this command has begun, once the server has said so."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self.url: str | None = None
        self.path = Path()
        self._cancelled = False
        self._saved = False

    async def fetch(self, client: "Client", *, asked: dict[str, Any], bar: "Bar | None") -> dict[str, Any]:
        export = await client.export(**asked)
        self.url = export.url
        self.path = self._wish.target(f"export_{export.id}.csv")
        result = await _fetch(client, target=export.url, path=self.path, wish=self._wish, bar=bar)
        self._saved = True
        return result

    async def cancel(self, client: "Client") -> None:
        assert self.url
        from streamer.client.saving import discard_part  # noqa: PLC0415 - see the package

        await client.get(self.url).cancel()
        self._cancelled = True
        if not self._wish.to_stdout:
            discard_part(self.path)

    def how_to_go_on(self) -> str | None:
        if self._cancelled:
            return "the export is cancelled on the server, too"
        if self.url is None or self._saved or self._wish.to_stdout:
            return None
        return f"the export goes on; `streamer pull {self.url} -o {self.path}` fetches it"


def _wants_to_cancel() -> bool:
    """Whoever presses Ctrl-C once more, or cannot be asked, leaves the export alone."""
    if not is_terminal(sys.stdin):
        return False
    try:
        with interrupts.raised():
            return click.confirm("Cancel the export on the server, too?", err=True)
    except (click.Abort, KeyboardInterrupt):
        return False


@contextmanager
def _watched(wish: Wish, path: Path) -> Iterator["Bar | None"]:
    """A progress bar, where there is a terminal for it, and nothing else is written there."""
    if wish.quiet or not is_terminal(sys.stderr) or (wish.to_stdout and is_terminal(sys.stdout)):
        yield None
        return
    try:
        from streamer.commands.bar import Bar  # noqa: PLC0415 - its packages are an extra of their own
    except ImportError as error:
        raise needs_rich("the progress bar", "--quiet") from error
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the terminal gets its cursor back
    with Bar("standard output" if wish.to_stdout else path.name) as bar:
        yield bar


async def _fetch(client: "Client", *, target: str, path: Path, wish: Wish, bar: "Bar | None") -> dict[str, Any]:
    """Downloads, and tells of it as `--json` does."""
    _keep_freed_memory()
    export = client.get(target)
    begin = time.monotonic()
    async with _polling(export, bar):
        if wish.to_stdout:
            await _to_stdout(export, bar)
            return {}
        saved = await export.save(path, connections=wish.connections, force=wish.force)
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


def _keep_freed_memory() -> None:
    """glibc gives back what is free beyond twice the largest mapped block that was freed, and gets it anew by the page.

    After this one, of which no page is touched, each chunk of a download is put where one before it was (mallopt(3),
    M_MMAP_THRESHOLD). Elsewhere it does nothing.
    """
    bytes(KEPT)


async def _to_stdout(export: "Export", bar: "Bar | None") -> None:
    fd, count = output().fileno(), 0
    async with aclosing(export.stream()) as chunks:
        async for chunk in chunks:
            with told_of_output():
                await _in_daemon_thread(partial(_write, fd, chunk))
            count += len(chunk)
            if bar:
                bar.received(count)


def _write(fd: int, chunk: bytes) -> None:
    """To standard output, past all buffers."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    """A write to a pipe may last for ever: neither the event loop nor the end of the process waits for this thread."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end(error: Exception | None) -> None:
        if done.done():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def run() -> None:
        failure = None
        try:
            work()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nothing waits any more
            loop.call_soon_threadsafe(end, failure)

    threading.Thread(target=run, daemon=True, name="output").start()
    await done


@asynccontextmanager
async def _polling(export: "Export", bar: "Bar | None") -> AsyncIterator[None]:
    """The bar is told how far the export is on the server. What goes wrong with that, the download sees for itself."""
    task = asyncio.create_task(_poll(export)) if bar else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            await asyncio.wait({task})


async def _poll(export: "Export") -> None:
    from streamer.client import StreamerError  # noqa: PLC0415 - see the package

    while True:
        await asyncio.sleep(POLL)
        with suppress(StreamerError):
            if (await export.glance()).final:
                return


def _kept(path: Path, who: str) -> str | None:
    from streamer.client import StreamerError  # noqa: PLC0415 - see the package
    from streamer.client.target import part_of  # noqa: PLC0415

    with suppress(OSError, StreamerError):
        part = part_of(path)
        if part.stat().st_size:
            return f"{part} has what came so far; {who} goes on with it"
    return None


def _pairs(texts: tuple[str, ...]) -> dict[str, str | list[str]]:
    """NAME=VALUE; a name that comes several times has a list."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"{text!r} is not of the form NAME=VALUE")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _others(texts: tuple[str, ...]) -> dict[str, str | list[str]]:
    """What `--set` gives, which takes the place of no other option."""
    found = _pairs(texts)
    for name, option in OPTIONS.items():
        if name in found:
            raise click.UsageError(f"--set {name}=…: that is what {option} is for")
    return found


def _done(result: dict[str, Any], path: Path, wish: Wish) -> None:
    if wish.as_json:
        print_json(result)
    elif result and not wish.quiet and is_terminal(sys.stderr):
        complain(f"{path}: {result['rows']:,} rows, {result['bytes']:,} bytes, verified")
