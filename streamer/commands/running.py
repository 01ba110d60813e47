"""Runs the work of a command with a client, and turns its outcome into one sentence and an exit status."""

import asyncio
import gc
import shutil
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from streamer.commands.interrupts import INTERRUPTED, Terminated, interrupts
from streamer.commands.output import discard_buffered, print_json, print_stderr

if TYPE_CHECKING:
    from streamer.client import Client, ProgressListener, RetryPolicy

BROKEN_PIPE = 141  # as shells report SIGPIPE

Result = TypeVar("Result")


def program_name() -> str:
    """Returns how a user calls this program in a shell of the same folder: as now, unless its name is enough."""
    called = Path(sys.argv[0])
    if shutil.which("streamer") or called.name != "streamer":
        return "streamer"
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)


def run_with_client(
    server: str,
    api_key: str | None,
    work: "Callable[[Client], Awaitable[Result]]",
    *,
    retry_policy: "RetryPolicy | None" = None,
    listener: "ProgressListener | None" = None,
    max_time: float | None = None,
) -> Result:
    """Returns the result of `work`. Raises GaveUp after `max_time` seconds, and KeyboardInterrupt after Ctrl-C."""
    from streamer.client import Client, RetryPolicy  # noqa: PLC0415 - it takes longer than the rest of the command
    from streamer.client.client import time_limit  # noqa: PLC0415

    gc.freeze()  # imported modules live as long as the process: collections need not traverse them

    async def connected() -> Result:
        client = Client(server, api_key, retry_policy=retry_policy or RetryPolicy(attempts=3), listener=listener)
        async with time_limit(max_time), client:
            return await work(client)

    task = asyncio.run(_interruptible(connected()))
    interrupts.raise_if_pressed()
    return task.result()


async def _interruptible(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """Returns the task of the work when it is done; Ctrl-C cancels it."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    with interrupts.cancelling(lambda: loop.call_soon_threadsafe(task.cancel)):
        await asyncio.gather(task, return_exceptions=True)
    return task


@contextmanager
def reporting_errors(
    *, as_json: bool, remedy: Callable[[], str | None] = lambda: None, of_option: bool = True
) -> Iterator[None]:
    """Ends the process for a StreamerError or Ctrl-C, with one sentence on stderr and its exit status.

    `remedy` returns a second sentence, which says how to continue, if that is possible. `of_option` says whether the
    server is that of `--server`, and not of a URL.
    """
    with _exiting_on_errors(as_json=as_json, remedy=remedy, of_option=of_option), interrupts.deferred():
        yield


@contextmanager
def _exiting_on_errors(*, as_json: bool, remedy: Callable[[], str | None], of_option: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        interrupts.ignore()
        _exit("interrupted", INTERRUPTED, remedy(), as_json=as_json)
    except Terminated as end:
        _exit("terminated", int(str(end)), remedy(), as_json=as_json)
    except BrokenPipeError:
        discard_buffered(sys.stdout)
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        from streamer.client import GaveUp, LocalFileError, StreamerError  # noqa: PLC0415 - see the package

        if not isinstance(error, StreamerError):
            raise
        interrupts.ignore()
        resumable = isinstance(error, GaveUp | LocalFileError)
        sentence = f"{error}{_hint(error, of_option=of_option)}"
        _exit(sentence, error.exit_status, remedy() if resumable else None, as_json=as_json)


def _hint(error: Exception, *, of_option: bool) -> str:
    """Returns what to look at if the server cannot be reached."""
    from streamer.client.errors import Unreachable  # noqa: PLC0415 - see the package

    failure = error.__cause__
    if not isinstance(failure, Unreachable):
        return ""
    question = "is it running?" if failure.has_address else "is its name right?"
    return f"; {question}" + (" set --server or STREAMER_URL" if of_option else "")


def _exit(sentence: str, status: int, remedy: str | None, *, as_json: bool) -> None:
    from streamer.client import LocalFileError  # noqa: PLC0415 - see the package

    if as_json:
        with suppress(LocalFileError, BrokenPipeError):
            print_json({"exitStatus": status, "error": sentence})
    print_stderr(f"streamer: {sentence}")
    if remedy:
        print_stderr(remedy)
    sys.exit(status)
