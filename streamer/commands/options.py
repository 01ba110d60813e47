"""What the verbs share: where the server is, how they end, and what they say when they end badly."""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar
from urllib.parse import urlsplit

import click

from streamer.commands.interrupts import INTERRUPTED, interrupts

if TYPE_CHECKING:
    from streamer.client import Client, ProgressListener, RetryPolicy

DEFAULT_SERVER = "http://127.0.0.1:8080"
READER_LEFT = 141  # as shells have it for SIGPIPE
CAN_GO_ON = {1, 5, INTERRUPTED}  # exit statuses after which another run may do it

Result = TypeVar("Result")
Command = Callable[..., None]


def server_options(command: Command) -> Command:
    """`--server` and the key, from the environment where they are not given."""
    server = click.option(
        "--server",
        envvar="STREAMER_URL",
        default=DEFAULT_SERVER,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The server.",
    )
    key = click.option(
        "--api-key", envvar="STREAMER_API_KEY", show_envvar=True, metavar="KEY", help="Sent as a bearer token."
    )
    return server(key(command))


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, for programs.")(command)


def key_for(target: str, server: str, api_key: str | None) -> str | None:
    """The key is the server's; a URL that leads elsewhere does not get it."""
    return api_key if "://" not in target or _origin(target) == _origin(server) else None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def ask(
    server: str,
    api_key: str | None,
    work: "Callable[[Client], Awaitable[Result]]",
    *,
    patience: "RetryPolicy | None" = None,
    watcher: "ProgressListener | None" = None,
    max_time: float | None = None,
) -> Result:
    """Runs what is to be done with a client, within so many seconds."""
    from streamer.client import Client, RetryPolicy  # noqa: PLC0415 - it takes longer than the rest of the command
    from streamer.client.client import within  # noqa: PLC0415

    gc.freeze()  # what was imported stays to the end: to look through it, then and on the way, finds nothing

    async def connected() -> Result:
        client = Client(server, api_key, patience=patience or RetryPolicy(attempts=3), watcher=watcher)
        async with within(max_time), client:
            return await work(client)

    ended = asyncio.run(_interruptible(connected()))
    interrupts.raise_if_pressed()
    return ended.result()


async def _interruptible(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """The task of it, which has ended, by itself or because Ctrl-C was pressed."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    with interrupts.cancelling(lambda: loop.call_soon_threadsafe(task.cancel)):
        await asyncio.gather(task, return_exceptions=True)
    return task


@contextmanager
def reported(*, as_json: bool, remedy: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """One sentence on stderr, and the exit status that belongs to it. `remedy` says how to go on, if there is a way."""
    with _ended(as_json=as_json, remedy=remedy), interrupts.held():
        yield


@contextmanager
def _ended(*, as_json: bool, remedy: Callable[[], str | None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        interrupts.ignore()
        _end("interrupted", INTERRUPTED, remedy(), as_json=as_json)
    except BrokenPipeError:
        _discard_what_follows(sys.stdout)  # it has no reader any more: there is nothing to say
        sys.exit(READER_LEFT)
    except Exception as error:
        from streamer.client import StreamerError  # noqa: PLC0415 - see the package

        if not isinstance(error, StreamerError):
            raise
        interrupts.ignore()
        goes_on = error.exit_status in CAN_GO_ON
        _end(str(error), error.exit_status, remedy() if goes_on else None, as_json=as_json)


def _end(sentence: str, status: int, remedy: str | None, *, as_json: bool) -> None:
    from streamer.client import LocalFileError  # noqa: PLC0415 - see the package

    if as_json:
        with suppress(LocalFileError, BrokenPipeError):
            print_json({"exitStatus": status, "error": sentence})
    complain(f"streamer: {sentence}")
    if remedy:
        complain(remedy)
    sys.exit(status)


def print_json(value: Any) -> None:
    say(json.dumps(value))


def say(text: str) -> None:
    """A line, or several, to standard output. Raises LocalFileError, and BrokenPipeError if its reader has left."""
    output()
    with told_of_output():
        try:
            click.echo(text)
        except OSError:
            _discard_what_follows(sys.stdout)
            raise


def complain(text: str) -> None:
    """A line to standard error, if that takes it."""
    try:
        click.echo(text, err=True)
    except OSError:
        _discard_what_follows(sys.stderr)


def output() -> TextIO:
    """Standard output. Raises LocalFileError if it is closed."""
    from streamer.client import LocalFileError  # noqa: PLC0415 - see the package

    if not _is_open(sys.stdout):
        raise LocalFileError("standard output is closed")
    return sys.stdout


@contextmanager
def told_of_output() -> Iterator[None]:
    """Raises LocalFileError for what standard output refuses, and BrokenPipeError if its reader has left."""
    from streamer.client import LocalFileError  # noqa: PLC0415 - see the package

    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalFileError(f"standard output: {error.strerror or error}") from error


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _is_open(stream: TextIO | None) -> bool:
    """A stream that was closed before the process began is None."""
    return stream is not None and not stream.closed


def _discard_what_follows(stream: TextIO) -> None:
    """What a stream has not taken would be offered to it again at the end of the process, which would fail again."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def needs_rich(what: str, without: str) -> click.ClickException:
    return click.ClickException(f"{what} needs the packages of streamer[client]; {without} does without")
