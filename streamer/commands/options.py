"""Options that several commands have: the server, its API key, JSON output, durations; and the exit statuses."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click

from streamer.durations import read_duration

DEFAULT_SERVER = "http://127.0.0.1:8080"
USAGE = "wrong usage"
UNREACHABLE = "gave up: the server does not answer"
INTERRUPTED = "interrupted by Ctrl-C"
TERMINATED = "killed by SIGTERM; without a terminal there is no message"
CLOSED = "the reader has closed standard output (| head); without a message"
STATUSES_MAY_COME = "New statuses may come: treat an unknown one as a failure."

Command = Callable[..., None]


def exit_statuses(meanings: dict[int, str], note: str = "") -> str:
    """Returns the end of a help text: the exit statuses of the command, and a `note` about them."""
    every = {2: USAGE, **meanings, 130: INTERRUPTED, 141: CLOSED, 143: TERMINATED}
    lines = [f"  {status:<4} {meaning}" for status, meaning in sorted(every.items())]
    return "\n".join(["\b", "Exit status:", *lines, "", STATUSES_MAY_COME, *(["", note] if note else [])])


class Duration(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """A positive duration such as 90, 30s, 5m or 2h, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = read_duration(value).total_seconds()
        except ValueError as error:
            self.fail(f"{value!r} is not {error}", param, ctx)
        if not seconds:
            self.fail("the duration must be more than 0", param, ctx)
        return seconds


class Count(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """A whole number from `minimum` on, up to `maximum` if there is one."""

    name = "count"

    def __init__(self, minimum: int, maximum: int | None = None) -> None:
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        count = int(text) if text.isascii() and text.isdecimal() else -1
        if count < self._minimum or (self._maximum is not None and count > self._maximum):
            bounds = (
                f"of at least {self._minimum}" if self._maximum is None else f"from {self._minimum} to {self._maximum}"
            )
            self.fail(f"{text!r} is not a whole number {bounds}", param, ctx)
        return count


class RenamedOption(click.Option):
    """An option whose last name is an older one, which still works and is not shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(f", {self.opts[-1]}", ""), record[1])

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return f"'{self.opts[0]}'"


def server_options(command: Command) -> Command:
    """Adds `--server` and `--api-key`, whose defaults come from the environment."""
    server = click.option(
        "--server",
        envvar="STREAMER_URL",
        default=DEFAULT_SERVER,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The server; HOST:PORT means http://HOST:PORT.",
    )
    key = click.option(
        "--api-key", envvar="STREAMER_API_KEY", show_envvar=True, metavar="KEY", help="Sent as a bearer token."
    )
    return server(key(command))


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, for programs.")(command)


def key_for(target_server: str, server: str, api_key: str | None) -> str | None:
    """Returns the API key, but None for another server than `server`, to which the key belongs. Raises Refused."""
    from streamer.client.address import server_url  # noqa: PLC0415 - see the package

    return api_key if api_key and _origin(target_server) == _origin(server_url(server)) else None


def is_id(target: str) -> bool:
    """Whether a target is an id, whose server is that of `--server`, and not a URL."""
    return "/" not in target


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
