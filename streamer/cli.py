"""The commands of the command line. The server is imported only when one of its commands is called."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from streamer.commands import managing, pulling
from streamer.commands.documentation import docs
from streamer.commands.interrupts import INTERRUPTED
from streamer.errors import StartError

log = logging.getLogger(__name__)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[pulling.pull, pulling.export, managing.ls, managing.status, managing.cancel, managing.rm, docs],
)
@click.version_option(package_name="streamer")
def main() -> None:
    """Streams a PostgreSQL query as a CSV download that can be followed while it grows.

    `serve` and `demo` are the server; `docs` is the documentation; all others are the client. Tab completion: put
    `eval "$(_STREAMER_COMPLETE=bash_source streamer)"` into ~/.bashrc (zsh_source for zsh, fish_source for fish).
    """


@main.command()
@click.option("--budget", is_flag=True, help="Print how much memory these settings can use, and do nothing else.")
def serve(budget: bool) -> None:
    """Run the server, configured by the environment.

    The database is DATABASE_URL, or DB_HOST with DB_PORT, DB_USER, DB_PASSWORD and DB_NAME. `streamer docs
    settings` lists every setting.
    """
    with _server_process():
        from streamer.budget import budget as memory_budget  # noqa: PLC0415 - of the server: the client does not need it
        from streamer.budget import table  # noqa: PLC0415
        from streamer.config import alias_remarks, read_settings  # noqa: PLC0415
        from streamer.logs import logging_to_stderr  # noqa: PLC0415
        from streamer.server import serve as serve_until_stopped  # noqa: PLC0415

        settings = read_settings(os.environ)
        if budget:
            click.echo(table(memory_budget(settings)))
            return
        _raise_on_interrupt()
        with logging_to_stderr(settings.log_format):
            for remark in alias_remarks(os.environ):
                log.warning(remark)
            asyncio.run(serve_until_stopped(settings, announce=lambda url: None, hangup_rereads=True))


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
    with _server_process():
        from streamer.config import LogFormat  # noqa: PLC0415 - of the server: the client does not need it
        from streamer.logs import logging_to_stderr  # noqa: PLC0415

        try:
            from streamer.demo import run_demo  # noqa: PLC0415 - its packages are an optional extra
        except ImportError as error:
            raise StartError(f"the demo needs the packages of streamer[demo]: {error}") from error
        _raise_on_interrupt()
        with logging_to_stderr(LogFormat.TEXT):
            run_demo(rows=rows, port=port, directory=directory)


@contextmanager
def _server_process() -> Iterator[None]:
    """Sets up the process before it has threads; StartError ends it with one line.

    Ctrl-C ends the command without a message, unless the server handles it.
    """
    try:
        _check_platform()
        from streamer.process.allocator import keep_the_heap_small  # noqa: PLC0415 - of the server: the client does not need it
        from streamer.process.streams import open_closed_streams  # noqa: PLC0415

        open_closed_streams()
        keep_the_heap_small()
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except StartError as error:
        click.echo(f"streamer: {error}", err=True)
        sys.exit(1)


def _raise_on_interrupt() -> None:
    """To be called once all is imported: an interrupted import is half done. The server has handlers of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_platform() -> None:
    """The server needs SO_MEMINFO, RWF_NOWAIT and other things that only Linux has."""
    if sys.platform != "linux":
        raise StartError("the server runs on Linux only; on other systems, run it in a container")
