"""Options that several commands have: the server, its API key, JSON output."""

from collections.abc import Callable
from urllib.parse import urlsplit

import click

DEFAULT_SERVER = "http://127.0.0.1:8080"

Command = Callable[..., None]


def server_options(command: Command) -> Command:
    """Adds `--server` and `--api-key`, whose defaults come from the environment."""
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
    """Returns the API key, but None for a URL of another server: the key belongs to `server`."""
    return api_key if "://" not in target or _origin(target) == _origin(server) else None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
