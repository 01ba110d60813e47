"""`streamer ls`, `status`, `cancel` and `rm`: the exports of a server."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from streamer.commands.options import (
    ask,
    json_option,
    key_for,
    needs_rich,
    output,
    print_json,
    reported,
    say,
    server_options,
)

if TYPE_CHECKING:
    from streamer.client import Client, ExportStatus

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

    with reported(as_json=as_json):
        found = ask(server, api_key, work)
        if as_json:
            print_json([_builtins(status) for status in found])
        else:
            say(_tables().listed(found))


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

    async def work(client: "Client") -> "ExportStatus":
        return await client.get(target).status()

    with reported(as_json=as_json):
        found = ask(_server_of(target, server), key_for(target, server, api_key), work)
        if as_json:
            print_json(_builtins(found))
        else:
            say(_tables().shown(found))


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

        async def work(client: "Client", target: str) -> "ExportStatus":
            return await client.get(target).cancel()

        with reported(as_json=as_json):
            found = ask(_server_of(target, server), key_for(target, server, api_key), partial(work, target=target))
            if as_json:
                print_json(_builtins(found))
            else:
                say(f"{found.export_id} is {found.state}")


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

        async def work(client: "Client", target: str) -> str:
            export = client.get(target)
            await export.delete()
            return str(export.id)

        with reported(as_json=as_json):
            removed = ask(_server_of(target, server), key_for(target, server, api_key), partial(work, target=target))
            if as_json:
                print_json({"exportId": removed, "removed": True})
            else:
                say(f"{removed} is removed")


def _server_of(target: str, server: str) -> str:
    from streamer.client.address import address_of  # noqa: PLC0415 - see the package

    return address_of(target, server).server


def _builtins(status: "ExportStatus") -> Any:
    """Returns the members of the server's answer."""
    from streamer.schema import to_builtins  # noqa: PLC0415 - see the package

    return to_builtins(status)


def _tables() -> Any:
    output()
    try:
        from streamer.commands import tables  # noqa: PLC0415 - its packages are an extra of their own
    except ImportError as error:
        raise needs_rich("a table", "--json") from error
    return tables
