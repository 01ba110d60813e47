"""What the verbs share: where the server is, how they end, and what they say when they end badly."""

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from streamer.client import Client, Patience, Watcher

DEFAULT_SERVER = "http://127.0.0.1:8080"
INTERRUPTED = 130  # as shells have it for SIGINT
OUTPUT_CLOSED = 1
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
    patience: "Patience | None" = None,
    watcher: "Watcher | None" = None,
    max_time: float | None = None,
) -> Result:
    """Runs what is to be done with a client, within so many seconds."""
    from streamer.client import Client, Patience  # noqa: PLC0415 - it takes longer than the rest of the command
    from streamer.client.client import within  # noqa: PLC0415

    gc.freeze()  # what was imported stays to the end: to look through it, then and on the way, finds nothing

    async def connected() -> Result:
        client = Client(server, api_key, patience=patience or Patience(tries=3), watcher=watcher)
        async with within(max_time), client:
            return await work(client)

    return asyncio.run(connected())


@contextmanager
def reported(*, as_json: bool, remedy: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """One sentence on stderr, and the exit status that belongs to it. `remedy` says how to go on, if there is a way."""
    from streamer.client import StreamerError  # noqa: PLC0415 - it takes longer than the rest of the command

    try:
        yield
    except StreamerError as error:
        goes_on = error.exit_status in CAN_GO_ON
        _end(str(error), error.exit_status, remedy() if goes_on else None, as_json=as_json)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED, remedy(), as_json=as_json)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more: there is nothing to say
        sys.exit(OUTPUT_CLOSED)


def _end(sentence: str, status: int, remedy: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"exitStatus": status, "error": sentence})
    click.echo(f"streamer: {sentence}", err=True)
    if remedy:
        click.echo(remedy, err=True)
    sys.exit(status)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value))


def needs_rich(what: str, without: str) -> click.ClickException:
    return click.ClickException(f"{what} needs the packages of streamer[client]; {without} does without")
