"""The verbs of the command line."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from pythonjsonlogger.json import JsonFormatter

from streamer.config import LogFormat, read_settings
from streamer.errors import StartError
from streamer.server import serve as serve_until_stopped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamer")
def main() -> None:
    """Streams a PostgreSQL query as a CSV download that can be followed while it grows."""


@main.command()
def serve() -> None:
    """Run the server, configured by the environment.

    The database is DATABASE_URL, or DB_HOST with DB_PORT, DB_USER, DB_PASSWORD and DB_NAME. The README lists every
    setting.
    """
    with _one_line_on_failure():
        settings = read_settings(os.environ)
        set_up_logging(settings.log_format)
        asyncio.run(serve_until_stopped(settings, announce=lambda url: None))


@main.command()
@click.option(
    "--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Rows of the demo table."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Where to serve.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".streamer",
    show_default=True,
    help="Where the demo's database is kept.",
)
def demo(rows: int, port: int, directory: Path) -> None:
    """Run the server on an embedded PostgreSQL with a table of users; Ctrl-C stops both."""
    with _one_line_on_failure():
        try:
            from streamer.demo import run_demo  # noqa: PLC0415 - its packages are an extra of their own
        except ImportError as error:
            raise StartError(f"the demo needs the packages of streamer[demo]: {error}") from error
        set_up_logging(LogFormat.TEXT)
        run_demo(rows=rows, port=port, directory=directory)


def set_up_logging(log_format: LogFormat) -> None:
    """Everything to stderr, one line a record where the format is JSON."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format is LogFormat.JSON:
        handler.setFormatter(JsonFormatter(["asctime", "levelname", "name", "message"]))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@contextmanager
def _one_line_on_failure() -> Iterator[None]:
    try:
        yield
    except StartError as error:
        click.echo(f"streamer: {error}", err=True)
        sys.exit(1)
