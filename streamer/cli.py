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
from streamer.commands.options import Count
from streamer.commands.running import program_name
from streamer.errors import StartError, shown

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
@click.option(
    "--port", type=Count(0, 65535), metavar="PORT", help="The port to listen on, instead of API_PORT; 0 is a free one."
)
@click.option("--host", metavar="HOSTS", help="The addresses to listen on, separated by commas, instead of API_HOST.")
@click.option("--budget", is_flag=True, help="Print how much memory these settings can use, and do nothing else.")
def serve(port: int | None, host: str | None, budget: bool) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Settings are environment variables; `streamer docs settings` lists them. The database is DATABASE_URL or, if that
    is not set, DB_HOST with DB_PORT, DB_USER, DB_PASSWORD (or DB_PASSWORD_FILE) and DB_NAME. By default the table
    `users` is exported, files are kept in the folder `spool`, and the server listens on 127.0.0.1:8080.

    \b
    Exit status:
      0    stopped
      1    cannot start: one sentence says why
      2    wrong usage
      130  stopped at once by a second Ctrl-C
      143  stopped at once by a second SIGTERM
    """
    given = {"API_PORT": None if port is None else str(port), "API_HOST": host}
    options = {name: text for name, text in given.items() if text is not None}
    with _server_process():
        with _packages_of("server"):
            from streamer.budget import budget as memory_budget  # noqa: PLC0415 - the client does not need the server
            from streamer.budget import table  # noqa: PLC0415
            from streamer.config import name_remarks, read_settings  # noqa: PLC0415
            from streamer.logs import logging_to_stderr  # noqa: PLC0415
            from streamer.server import serve as serve_until_stopped  # noqa: PLC0415
            from streamer.server.export_connections import chosen_by_machine  # noqa: PLC0415

        settings = read_settings(os.environ, options)
        if budget:
            click.echo(table(memory_budget(chosen_by_machine(settings))))
            return
        _raise_on_interrupt()
        with logging_to_stderr(settings.log_format):
            for remark in name_remarks(os.environ):
                log.warning(remark)
            asyncio.run(serve_until_stopped(settings, announce=lambda url: None, hangup_rereads=True))


@main.command()
@click.option(
    "--rows", type=Count(1), metavar="N", default=1_000_000, show_default=True, help="How many users the table has."
)
@click.option(
    "--port",
    type=Count(0, 65535),
    metavar="PORT",
    default=8080,
    envvar="API_PORT",
    show_envvar=True,
    show_default=True,
    help="The port to listen on; 0 is a free one.",
)
@click.option(
    "--host",
    metavar="HOSTS",
    default="127.0.0.1",
    envvar="API_HOST",
    show_envvar=True,
    show_default=True,
    help="The addresses to listen on, separated by commas.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".streamer",
    show_default=True,
    help="The folder of the demo's database and exports.",
)
def demo(rows: int, port: int, host: str, directory: Path) -> None:
    """Run the server on an embedded PostgreSQL with a table of users, until Ctrl-C.

    The first start fills the table; an interrupted one is continued by the next. A table that has more rows than asked
    for is served as it is. To remove the demo, delete its folder. Other settings than API_PORT and API_HOST are not
    read.

    PostgreSQL does not run as root. Run as root, the demo creates a user of the system, `pgserver`, to run it as, and
    lets every user enter the folders on the way to its files.

    \b
    Exit status:
      0    stopped
      1    cannot start: one sentence says why
      2    wrong usage
      130  Ctrl-C before it served, or a second one
      143  SIGTERM before it served, or a second one
    """
    with _server_process():
        with _packages_of("demo"):
            from streamer.config import LogFormat, read_hosts  # noqa: PLC0415 - the client does not need the server
            from streamer.demo import run_demo  # noqa: PLC0415
            from streamer.logs import logging_to_stderr  # noqa: PLC0415

        try:
            hosts = read_hosts(host)
        except ValueError as error:
            raise StartError(f"--host must be {error}, not '{shown(host)}'") from error
        _raise_on_interrupt()
        with logging_to_stderr(LogFormat.TEXT):
            run_demo(rows=rows, hosts=hosts, port=port, directory=directory, command=program_name())


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


@contextmanager
def _packages_of(extra: str) -> Iterator[None]:
    """For imports of packages that are installed with an extra of this package. Raises StartError without them."""
    try:
        yield
    except ImportError as error:
        raise StartError(
            f"the {extra} needs packages that are not installed: pip install 'streamer[{extra}]' ({error})"
        ) from error


def _raise_on_interrupt() -> None:
    """To be called once all is imported: an interrupted import is half done. The server has handlers of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_platform() -> None:
    """The server needs SO_MEMINFO, RWF_NOWAIT and other things that only Linux has."""
    if sys.platform != "linux":
        raise StartError("the server runs on Linux only; on other systems, run it in a container")
