"""`streamer ls`, `status`, `cancel` and `rm`: list and manage the exports of a server."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.commands.options import json_option, key_for, server_options
from streamer.commands.output import missing_rich, print_json, print_stdout, standard_output
from streamer.commands.running import reporting_errors, run_with_client

if TYPE_CHECKING:
    from streamer.client import Client, Export, ExportStatus

Result = TypeVar("Result")
STATES = ("pending", "processing", "completed", "failed", "cancelled")
targets = click.argument("targets", metavar="URL|EXPORT_ID...", nargs=-1, required=True)


@click.command()
@click.option("--status", "states", multiple=True, type=click.Choice(STATES), help="Only these; may be repeated.")
@click.option("--label", metavar="TEXT", help="Only those with this in their label, in upper or lower case.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@server_options
@json_option
def ls(
    *, states: tuple[str, ...], label: str | None, limit: int, server: str, api_key: str | None, as_json: bool
) -> None:
    """List the exports of the server, newest first.

    \b
    Examples:
      streamer ls --status processing --status pending
      streamer ls --label 'month end'
      streamer ls --limit 100 --json
    """

    async def work(client: "Client") -> "list[ExportStatus]":
        return [found async for found in client.exports(status=states, label=label, limit=limit)]

    with reporting_errors(as_json=as_json):
        found = run_with_client(server, api_key, work)
        if as_json:
            print_json([_builtins(status) for status in found])
        else:
            print_stdout(_tables().export_table(found))


@click.command()
@click.argument("target", metavar="URL|EXPORT_ID")
@server_options
@json_option
def status(target: str, server: str, api_key: str | None, as_json: bool) -> None:
    """Show how far an export is.

    \b
    Examples:
      streamer status ID
      streamer status http://127.0.0.1:8080/exports/ID --json
    """
    with reporting_errors(as_json=as_json):
        found = _run(_status, target, server, api_key)
        if as_json:
            print_json(_builtins(found))
        else:
            print_stdout(_tables().status_table(found))


@click.command()
@targets
@server_options
@json_option
def cancel(targets: tuple[str, ...], server: str, api_key: str | None, as_json: bool) -> None:
    """Cancel exports that are not finished. What is finished stays as it is.

    \b
    Example:
      streamer cancel ID
    """
    for target in targets:
        with reporting_errors(as_json=as_json):
            found = _run(_cancel, target, server, api_key)
            if as_json:
                print_json(_builtins(found))
            else:
                print_stdout(f"{found.export_id} is {found.status}")


@click.command()
@targets
@server_options
@json_option
def rm(targets: tuple[str, ...], server: str, api_key: str | None, as_json: bool) -> None:
    """Remove the files of exports from the server. What is not finished is cancelled.

    \b
    Example:
      streamer rm ID ID
    """
    for target in targets:
        with reporting_errors(as_json=as_json):
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


def _run(work: "Callable[[Export], Awaitable[Result]]", target: str, server: str, api_key: str | None) -> Result:
    """Runs the work with the export `target`, which is an id at `server` or a URL of any server."""
    from streamer.client.address import address_of  # noqa: PLC0415 - see the package

    async def with_export(client: "Client") -> Result:
        return await work(client.get(target))

    return run_with_client(address_of(target, server).server, key_for(target, server, api_key), with_export)


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
