"""`streamer pull` and `streamer export`: a verified file, or an exit status that says why there is none."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.commands.downloading import DownloadOptions, download, progress_bar, report, resume_hint
from streamer.commands.interrupts import interrupts
from streamer.commands.options import Command, json_option, key_for, server_options
from streamer.commands.output import is_terminal
from streamer.commands.running import reporting_errors, run_with_client

if TYPE_CHECKING:
    from streamer.client import Client
    from streamer.commands.bar import ProgressBar

OWN_OPTIONS = {
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


def with_download_options(command: Command) -> Command:
    """Adds the options of DownloadOptions, except --connections, and those of the server."""
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
@with_download_options
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
    download_options = DownloadOptions(**options)
    download_options.check()
    as_json = download_options.as_json
    with reporting_errors(as_json=as_json):
        from streamer.client.address import address_of  # noqa: PLC0415 - see the package

        address = address_of(target, server)
        path = download_options.target(f"export_{address.export_id}.csv")
    with reporting_errors(as_json=as_json, remedy=lambda: resume_hint(path, "the same command")):
        with progress_bar(download_options, path) as bar:
            result = run_with_client(
                address.server,
                key_for(target, server, api_key),
                partial(download, target=target, path=path, options=download_options, bar=bar),
                retry_policy=download_options.retry_policy,
                listener=bar,
                max_time=download_options.max_time,
            )
        report(result, path, download_options)


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
@with_download_options
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
    download_options = DownloadOptions(connections=1, **options)
    download_options.check()
    request = {
        "dataset": dataset,
        "columns": columns,
        "where": _parse_pairs(conditions),
        "label": label,
        "ttl": ttl,
        **_parse_parameters(parameters),
    }
    run = _ExportRun(server, api_key, download_options)
    with reporting_errors(as_json=download_options.as_json, remedy=run.remedy):
        download_options.check_output()
        result = run.execute(request, cancel_on_interrupt=cancel_on_interrupt)
        report(result, run.path, download_options)


class _ExportRun:
    """One run of `streamer export`. `path` is the file, known once the export is created."""

    def __init__(self, server: str, api_key: str | None, options: DownloadOptions) -> None:
        self._server = server
        self._api_key = api_key
        self._options = options
        self._url: str | None = None
        self.path = Path()
        self._cancelled = False
        self._saved = False

    def execute(self, request: dict[str, Any], *, cancel_on_interrupt: bool) -> dict[str, Any]:
        """Creates the export and downloads it. Returns as `download` does.

        Raises KeyboardInterrupt after Ctrl-C, when the export is cancelled on the server if the user wants that.
        """
        try:
            return self._execute(request)
        except KeyboardInterrupt:
            if self._url is not None and (cancel_on_interrupt or _confirms_cancel()):
                run_with_client(self._server, self._api_key, self._cancel)
            raise

    def remedy(self) -> str | None:
        if self._cancelled:
            return "the export is cancelled on the server, too"
        if self._url is None or self._saved or self._options.to_stdout:
            return None
        return f"the export continues on the server; `streamer pull {self._url} -o {self.path}` downloads it"

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        with progress_bar(options, Path(options.output or "export")) as bar:
            return run_with_client(
                self._server,
                self._api_key,
                partial(self._create_and_download, request=request, bar=bar),
                retry_policy=options.retry_policy,
                listener=bar,
                max_time=options.max_time,
            )

    async def _create_and_download(
        self, client: "Client", *, request: dict[str, Any], bar: "ProgressBar | None"
    ) -> dict[str, Any]:
        export = await client.export(**request)
        self._url = export.url
        self.path = self._options.target(f"export_{export.id}.csv")
        result = await download(client, target=export.url, path=self.path, options=self._options, bar=bar)
        self._saved = True
        return result

    async def _cancel(self, client: "Client") -> None:
        """Cancels the export on the server, and removes its partial file."""
        from streamer.client.saving import discard_part  # noqa: PLC0415 - see the package

        assert self._url
        await client.get(self._url).cancel()
        self._cancelled = True
        if not self._options.to_stdout:
            discard_part(self.path)


def _confirms_cancel() -> bool:
    """False if there is no terminal to ask on, and after another Ctrl-C."""
    if not is_terminal(sys.stdin):
        return False
    try:
        with interrupts.raising():
            return click.confirm("Cancel the export on the server, too?", err=True)
    except (click.Abort, KeyboardInterrupt):
        return False


def _parse_pairs(texts: tuple[str, ...]) -> dict[str, str | list[str]]:
    """Parses NAME=VALUE; the values of a repeated name become a list. Raises click.UsageError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"{text!r} is not of the form NAME=VALUE")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _parse_parameters(texts: tuple[str, ...]) -> dict[str, str | list[str]]:
    """Parses the values of `--set`. Raises click.UsageError for a parameter that has an option of its own."""
    found = _parse_pairs(texts)
    for name, option in OWN_OPTIONS.items():
        if name in found:
            raise click.UsageError(f"--set {name}=…: that is what {option} is for")
    return found
