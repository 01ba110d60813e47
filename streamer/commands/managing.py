"""`streamer ls`, `status`, `cancel` and `rm`: list and manage the exports of a server."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.commands.options import UNREACHABLE, Count, exit_statuses, is_id, json_option, key_for, server_options
from streamer.commands.output import missing_rich, print_json, print_stdout, standard_output
from streamer.commands.running import reporting_errors, run_with_client

if TYPE_CHECKING:
    from streamer.client import Client, Export, ExportStatus, ProgressListener, RetryPolicy

Result = TypeVar("Result")
STATUSES = ("pending", "processing", "completed", "failed", "cancelled")
REFUSED = "refused by the server, or standard output cannot be written"
UNKNOWN = "there never was such an export"
CHANGED = exit_statuses({0: "done for every export", 1: REFUSED, 4: UNKNOWN, 5: UNREACHABLE})
targets = click.argument("targets", metavar="URL|EXPORT_ID...", nargs=-1, required=True)


@click.command(epilog=exit_statuses({0: "the list is shown", 1: REFUSED, 5: UNREACHABLE}))
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(STATUSES),
    help="Only exports with this status. May be repeated.",
)
@click.option("--dataset", metavar="NAME", help="Only exports of this dataset.")
@click.option("--label", metavar="TEXT", help="Only exports with this text in their label. Case does not matter.")
@click.option("--limit", type=Count(1), default=20, show_default=True, metavar="N", help="At most N exports.")
@server_options
@json_option
def ls(
    *,
    statuses: tuple[str, ...],
    dataset: str | None,
    label: str | None,
    limit: int,
    server: str,
    api_key: str | None,
    as_json: bool,
) -> None:
    """List the exports of the server, newest first, each with its label, dataset and conditions.

    \b
    Examples:
      streamer ls --status processing --status pending
      streamer ls --dataset users --label 'month end'
      streamer ls --limit 100 --json
    """

    async def work(client: "Client") -> "list[ExportStatus]":
        return [found async for found in client.exports(status=statuses, label=label, dataset=dataset, limit=limit)]

    with reporting_errors(as_json=as_json):
        found = run_with_client(server, api_key, work)
        if as_json:
            print_json([_builtins(status) for status in found])
        else:
            print_stdout(_tables().export_table(found))


@click.command(
    epilog=exit_statuses(
        {
            0: "the status is shown; with --watch: the export is completed",
            1: REFUSED,
            3: "with --watch: the export failed",
            4: "there never was such an export; with --watch: it was cancelled",
            5: UNREACHABLE,
        }
    )
)
@click.argument("target", metavar="URL|EXPORT_ID")
@click.option("--watch", is_flag=True, help="Follow the export until it ends.")
@server_options
@json_option
def status(target: str, watch: bool, server: str, api_key: str | None, as_json: bool) -> None:
    """Show the progress of an export.

    With --watch, a terminal shows it until the export ends. Without a terminal, each change is one line.

    \b
    Examples:
      streamer status ID
      streamer status ID --watch && streamer pull ID
      streamer status http://127.0.0.1:8080/exports/ID --json
    """
    with _reporting_errors(target, as_json=as_json):
        if watch:
            _watch(target, server, api_key, as_json=as_json)
            return
        found = _run(_status, target, server, api_key)
        if as_json:
            print_json(_builtins(found))
        else:
            print_stdout(_tables().status_table(found))


@click.command(epilog=CHANGED)
@targets
@server_options
@json_option
def cancel(targets: tuple[str, ...], server: str, api_key: str | None, as_json: bool) -> None:
    """Cancel exports. Exports that have ended already stay as they are. The first error ends the command.

    \b
    Example:
      streamer cancel ID
    """
    for target in targets:
        with _reporting_errors(target, as_json=as_json):
            found = _run(_cancel, target, server, api_key)
            if as_json:
                print_json(_builtins(found))
            else:
                print_stdout(f"{found.export_id} is {found.status}")


@click.command(epilog=CHANGED)
@targets
@server_options
@json_option
def rm(targets: tuple[str, ...], server: str, api_key: str | None, as_json: bool) -> None:
    """Remove the files of exports from the server. Exports that have not ended are cancelled.

    The first error ends the command.

    \b
    Example:
      streamer rm ID ID
    """
    for target in targets:
        with _reporting_errors(target, as_json=as_json):
            removed = _run(_delete, target, server, api_key)
            if as_json:
                print_json({"exportId": removed, "removed": True})
            else:
                print_stdout(f"{removed} is removed")


async def _status(export: "Export") -> "ExportStatus":
    return await export.status()


async def _cancel(export: "Export") -> "ExportStatus":
    return await export.cancel()


async def _delete(export: "Export") -> str:
    await export.delete()
    return str(export.id)


def _watch(target: str, server: str, api_key: str | None, *, as_json: bool) -> None:
    from streamer.client import RetryPolicy  # noqa: PLC0415 - see the package
    from streamer.commands.watching import watch, watcher  # noqa: PLC0415

    with watcher(as_json=as_json) as listener:
        _run(watch, target, server, api_key, retry_policy=RetryPolicy(), listener=listener)


def _run(
    work: "Callable[[Export], Awaitable[Result]]",
    target: str,
    server: str,
    api_key: str | None,
    *,
    retry_policy: "RetryPolicy | None" = None,
    listener: "ProgressListener | None" = None,
) -> Result:
    """Runs the work with the export `target`, which is an id at `server` or a URL of any server."""
    from streamer.client.address import address_of  # noqa: PLC0415 - see the package

    async def with_export(client: "Client") -> Result:
        return await work(client.get(target))

    found = address_of(target, server).server
    key = key_for(found, server, api_key)
    return run_with_client(found, key, with_export, retry_policy=retry_policy, listener=listener)


def _reporting_errors(target: str, *, as_json: bool) -> AbstractContextManager[None]:
    return reporting_errors(as_json=as_json, of_option=is_id(target))


def _builtins(status: "ExportStatus") -> Any:
    """Returns the members of the server's answer."""
    from streamer.schema import to_builtins  # noqa: PLC0415 - see the package

    return to_builtins(status)


def _tables() -> Any:
    standard_output()
    try:
        from streamer.commands import tables  # noqa: PLC0415 - its packages are an extra of their own
    except ImportError as error:
        raise missing_rich("a table", "--json") from error
    return tables
