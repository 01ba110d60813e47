"""`streamer pull` and `streamer export`: a verified file, or an exit status that says why there is none."""

import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.commands.conditions import parse_conditions, parse_pairs
from streamer.commands.downloading import DownloadOptions, download, progress_bar, report, resume_hint
from streamer.commands.interrupts import interrupts
from streamer.commands.options import (
    Command,
    Count,
    Duration,
    RenamedOption,
    exit_statuses,
    is_id,
    json_option,
    key_for,
    server_options,
)
from streamer.commands.output import is_terminal, print_json, print_stdout, standard_output
from streamer.commands.running import program_name, reporting_errors, run_with_client

if TYPE_CHECKING:
    from streamer.client import Client, Export
    from streamer.commands.bar import ProgressBar

OWN_OPTIONS = {
    "dataset": "--dataset",
    "columns": "--columns",
    "filters": "--where",
    "where": "--where",
    "label": "--label",
    "ttl": "--ttl",
}
EXIT_STATUSES = exit_statuses(
    {
        0: "FILE is complete and verified",
        1: "refused by the server, or FILE cannot be written",
        3: "the export failed on the server",
        4: "the export was cancelled or deleted, has expired, or never existed",
        5: "gave up: --max-time is over, or too many tries without data",
        6: "the length or the SHA-256 does not match the server's",
    },
    "After 5, 130 and 143, and after 1 if the disk was full, the same `streamer pull` resumes FILE.part.",
)


def with_download_options(command: Command) -> Command:
    """Adds the options of DownloadOptions, except --connections, and those of the server."""
    command = server_options(json_option(command))
    for option in reversed(
        [
            click.option("-o", "--output", metavar="FILE", help="Where to save; `-` is standard output."),
            click.option("--gzip", is_flag=True, help="Save the export as a gzip file, export_ID.csv.gz."),
            click.option("--zstd", is_flag=True, help="Save the export as a Zstandard file, export_ID.csv.zst."),
            click.option(
                "--compressed",
                is_flag=True,
                help="Save the CSV, but compress the transfer, as gzip or, with --zstd, as Zstandard.",
            ),
            click.option("--force", is_flag=True, help="Replace FILE, and a FILE.part of another export."),
            click.option(
                "--max-time", type=Duration(), metavar="DURATION", help="Give up after this time, such as 90, 5m or 2h."
            ),
            click.option(
                "--max-tries",
                "--retries",
                "max_tries",
                cls=RenamedOption,
                type=Count(1),
                default=10,
                show_default=True,
                metavar="N",
                help="Give up after N tries in a row without data.",
            ),
            click.option(
                "--timeout",
                type=Duration(),
                default="30s",
                show_default=True,
                metavar="DURATION",
                help="Reconnect if a connection is silent for this time.",
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
    type=Count(1, 16),
    default=1,
    show_default=True,
    metavar="N",
    help="Download a completed export over N connections at once, at most 16.",
)
def pull(target: str, server: str, api_key: str | None, **options: Any) -> None:
    """Download an export to a verified file.

    An export that is still running is followed to its end. Interrupted downloads resume, also in the next run. Until
    the download is complete and its SHA-256 matches the server's, the file is called FILE.part. Without -o, FILE is
    export_ID.csv. A URL that ends with .csv.gz or .csv.zst is that of the compressed file.

    \b
    Examples:
      streamer pull http://127.0.0.1:8080/exports/ID/download -o users.csv
      streamer pull ID --connections 4 -o users.csv
      streamer pull ID --gzip -o users.csv.gz
      streamer pull ID --compressed -o - | wc -l
    """
    download_options = DownloadOptions(**options)
    download_options.check()
    as_json = download_options.as_json
    with reporting_errors(as_json=as_json):
        from streamer.client.address import address_of  # noqa: PLC0415 - see the package

        address = address_of(target, server)
        key = key_for(address.server, server, api_key)
        transfer = download_options.transfer(address.coding)
        path = download_options.target(address.export_id, transfer.file_coding)

    def remedy() -> str | None:
        return None if download_options.to_stdout else resume_hint(path, address.export_id, transfer.coding)

    with reporting_errors(as_json=as_json, remedy=remedy, of_option=is_id(target)):
        with progress_bar(download_options, path, transfer) as bar:
            result = run_with_client(
                address.server,
                key,
                partial(download, target=target, path=path, options=download_options, transfer=transfer, bar=bar),
                retry_policy=download_options.retry_policy,
                listener=bar,
                max_time=download_options.max_time,
            )
        report(result, path, download_options)


@click.command(epilog=EXIT_STATUSES)
@click.option("--dataset", metavar="NAME", help="What to export. Default: users, or the only dataset of the server.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="COLUMN=VALUE, or COLUMN__gte=VALUE; also __gt, __lte, __lt, __ne. Repeat it for several conditions; several "
    "values for one column match any of them.",
)
@click.option("--columns", metavar="NAMES", help="The columns of the file, separated by commas. Default: all.")
@click.option("--limit", type=Count(0), metavar="N", help="At most N rows.")
@click.option("--order-by", metavar="COLUMN", help="Sort by this column; -COLUMN is descending. Several with commas.")
@click.option("--profile", metavar="NAME", help="`excel` writes a file that Excel opens correctly.")
@click.option("--delimiter", metavar="TEXT", help="The character between two fields, or the word tab. Default: comma.")
@click.option("--label", metavar="TEXT", help="A text for people; `ls --label` searches it.")
@click.option("--ttl", metavar="DURATION", help="How long the server keeps the file, such as 90, 60s, 5m, 2h or 1d.")
@click.option(
    "--set", "parameters", multiple=True, metavar="NAME=VALUE", help="Any other parameter, such as header=no."
)
@click.option("--no-wait", is_flag=True, help="Start the export, print its id, and download nothing.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the export on the server without asking.")
@with_download_options
def export(
    *,
    dataset: str | None,
    conditions: tuple[str, ...],
    columns: str | None,
    limit: int | None,
    order_by: str | None,
    profile: str | None,
    delimiter: str | None,
    label: str | None,
    ttl: str | None,
    parameters: tuple[str, ...],
    no_wait: bool,
    cancel_on_interrupt: bool,
    server: str,
    api_key: str | None,
    **options: Any,
) -> None:
    """Start an export and download it to a verified file.

    Ctrl-C asks whether to cancel the export on the server, too. Without a terminal the export continues there.

    \b
    Examples:
      streamer export --where country_code=US --columns id,email -o us.csv
      streamer export --where lifetime_value__gte=500 --profile excel -o best.csv
      streamer export --limit 1000 --order-by -signup_date --gzip -o latest.csv.gz
      ID=$(streamer export --no-wait)
    """
    download_options = DownloadOptions(connections=1, **options)
    download_options.check()
    if no_wait and (
        download_options.output or download_options.force or download_options.of_transfer or cancel_on_interrupt
    ):
        raise click.UsageError(
            "--no-wait downloads nothing: -o, --gzip, --zstd, --compressed, --force and --cancel-on-interrupt do not go"
            " with it"
        )
    typed = {"limit": limit, "order_by": order_by, "profile": profile, "delimiter": delimiter}
    request = {
        "dataset": dataset,
        "columns": columns,
        "where": parse_conditions(conditions),
        "label": label,
        "ttl": ttl,
        **_parse_parameters(parameters, typed),
    }
    run = _ExportRun(server, api_key, download_options)
    with reporting_errors(as_json=download_options.as_json, remedy=run.remedy):
        if no_wait:
            run.start(request)
            return
        download_options.transfer()
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

    def start(self, request: dict[str, Any]) -> None:
        """Creates the export and prints its id."""
        options = self._options

        async def create(client: "Client") -> "Export":
            return await client.export(**request)

        standard_output()
        created = run_with_client(
            self._server, self._api_key, create, retry_policy=options.retry_policy, max_time=options.max_time
        )
        if options.as_json:
            print_json({"exitStatus": 0, "exportId": str(created.id), "url": created.url})
        else:
            print_stdout(str(created.id))

    def remedy(self) -> str | None:
        if self._cancelled:
            return "the export is cancelled on the server, too"
        if self._url is None or self._saved or self._options.to_stdout:
            return None
        options = self._options.of_transfer
        command = shlex.join([program_name(), "pull", self._url, *options, "-o", str(self.path)])
        return f"the export was not cancelled; `{command}` continues the download"

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        with progress_bar(options, Path(options.output or "export"), options.transfer()) as bar:
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
        transfer = self._options.transfer()
        self.path = self._options.target(export.id, transfer.file_coding)
        result = await download(
            client, target=export.url, path=self.path, options=self._options, transfer=transfer, bar=bar
        )
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


def _parse_parameters(texts: tuple[str, ...], typed: Mapping[str, object]) -> dict[str, object]:
    """Parses the values of `--set`, and adds the `typed` options that are given.

    Raises click.UsageError for a parameter that has an option of its own, or that is given twice.
    """
    found: dict[str, object] = dict(parse_pairs(texts))
    for name, option in OWN_OPTIONS.items():
        if name in found:
            raise click.UsageError(f"write {option} instead of --set {name}=…")
    for name, value in typed.items():
        if value is not None and name in found:
            raise click.UsageError(f"--{name.replace('_', '-')} and --set {name}=… are the same; give one of them")
    return {**found, **{name: value for name, value in typed.items() if value is not None}}
