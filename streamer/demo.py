"""The demo: an embedded PostgreSQL, a table of users, and the server.

The database is a real PostgreSQL from a Python package; its files stay in the demo's folder, and a second start
reuses them. The seeds run in batches, so that progress is visible, and an interrupted seeding continues where it
stopped.
"""

import asyncio
import fcntl
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import click
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from streamer.config import Hosts, Settings
from streamer.embedded import embedded_postgres
from streamer.errors import StartError, cannot_write
from streamer.postgres.failures import one_line
from streamer.server import check_port, serve

HERE = Path(__file__).parent
SEEDS = next(
    folder for folder in (HERE / "seeds", HERE.parent / "seeds") if folder.is_dir()
)  # in a wheel, in a checkout
BATCH_SIZE = 20_000  # rows
BAR_WIDTH = 30  # columns: the line fits into 80
IS_INDEXED = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'users'::regclass AND contype = 'p')"

WELCOME = """
{rows:,} users are ready at {url}

In another shell, download those of one country, and verify the file:

  {command} export \\
    --server {url} --where country_code=US -o users_US.csv

The same with curl (7.84 or later): start, download, status:

  URL={url}
  EXPORT=$(curl -sS --fail-with-body -X POST -o /dev/stderr \\
    -w '%header{{x-export-id}}' "$URL/exports/csv?country_code=US")
  curl -N --fail-with-body -o users_US.csv "$URL/exports/$EXPORT/download"
  curl -sS --fail-with-body "$URL/exports/$EXPORT/status"

Ctrl-C stops the server and the database.
"""


def run_demo(*, rows: int, hosts: Hosts, port: int, directory: Path, command: str) -> None:
    """Inserts the missing rows, serves until it is stopped, and stops the database. Raises StartError.

    `command` is how the user calls streamer in another shell of the same folder.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # while PostgreSQL starts
    settings = Settings(api_host=hosts, api_port=port, export_storage_path=directory / "spool")
    asyncio.run(check_port(settings))  # before the table is filled, which takes much longer
    with _locked(directory), embedded_postgres(directory / "postgres") as url:
        settings = structs.replace(settings, database_url=url, source_database_url=url)
        asyncio.run(_seed_and_serve(settings, rows, command))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Locks the folder: two demos on one database would stop it under each other. Raises StartError."""
    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((directory / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(
                f"another demo is running in {directory}; stop it, or choose another folder with --directory"
            ) from error
        except OSError as error:
            raise StartError(cannot_write(directory, error, "choose another folder with --directory")) from error
        yield


async def _seed_and_serve(settings: Settings, rows: int, command: str) -> None:
    with _terminated_between_steps():
        try:
            present = await _seed(settings.database_url, rows)
        except (OSError, asyncpg.PostgresError) as error:
            raise StartError(f"the demo's table could not be filled: {one_line(error)}") from error
    if present > rows:
        click.echo(f"the table has {present:,} rows already, more than --rows {rows}: all of them are served", err=True)
    await serve(
        settings,
        announce=lambda url: click.echo(WELCOME.format(rows=present, url=url, command=command)),
        hangup_rereads=False,  # closing the terminal ends the demo
    )


@contextmanager
def _terminated_between_steps() -> Iterator[None]:
    """Lets SIGTERM cancel the task, as asyncio does for SIGINT.

    An exception raised inside the driver in the middle of a response leaves a connection that waits for ever. The
    handler stays until `serve` sets its own.
    """
    task = asyncio.current_task()
    assert task is not None
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield
    except asyncio.CancelledError:
        if terminated:
            sys.exit(128 + signal.SIGTERM)
        raise


async def _seed(url: str, rows: int) -> int:
    """Returns how many rows the table has, at least `rows`."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_seeds("01_schema.sql"))
        present: int = await connection.fetchval("SELECT coalesce(max(id), 0) FROM users")
        if present < rows or not await connection.fetchval(IS_INDEXED):
            await _fill(connection, present, max(rows, present))
        return max(rows, present)
    finally:
        connection.terminate()  # at once: uncommitted rows are not worth a wait


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]", present: int, rows: int) -> None:
    progress = _progress()
    try:
        with progress:
            await _insert(connection, present + 1, rows, progress)
            progress.add_task("Creating indexes", total=None)
            await connection.execute(_seeds("03_order.sql"))
    except asyncio.CancelledError:
        click.echo(f"stopped at {progress.tasks[0].completed:,} of {rows:,} rows; the next start continues", err=True)
        raise


async def _insert(connection: "asyncpg.Connection[asyncpg.Record]", first: int, last: int, progress: Progress) -> None:
    insert = _seeds("02_users.sql")
    bar = progress.add_task("Seeding users", total=last, completed=first - 1)
    for start in range(first, last + 1, BATCH_SIZE):
        end = min(start + BATCH_SIZE - 1, last)
        await connection.execute(
            "SELECT set_config('seed.first', $1, false), set_config('seed.rows', $2, false)", str(start), str(end)
        )
        await connection.execute(insert)
        progress.update(bar, completed=end)


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(BAR_WIDTH), _Rows(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True))


class _Rows(ProgressColumn):
    """The rows that are there, and of how many; nothing where rows are not counted."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:,.0f} of {task.total:,.0f}")


def _seeds(name: str) -> str:
    return (SEEDS / name).read_text(encoding="utf-8")
