"""`streamer docs`: the documentation on the terminal, without a server and without the client."""

import sys
from typing import NoReturn

import click

from streamer.commands.options import exit_statuses
from streamer.commands.output import discard_buffered, is_terminal
from streamer.commands.running import BROKEN_PIPE
from streamer.docs import Page, UnknownPage, pages, read_page
from streamer.errors import shown

MAX_WIDTH = 100  # columns: longer lines are harder to read


EXIT_STATUSES = {
    0: "the page, or the list of pages, is shown",
    1: "there is no such page, or standard output cannot be written",
}


@click.command(epilog=exit_statuses(EXIT_STATUSES))
@click.argument("name", required=False)
def docs(name: str | None) -> None:
    """Show a page of the documentation, or the list of pages.

    \b
    Examples:
      streamer docs
      streamer docs settings
      streamer docs settings | less
    """
    if name is None:
        _print(_listing(pages()))
        return
    try:
        page = read_page(name.removesuffix(".md"))
    except UnknownPage as error:
        _fail(f"there is no page '{shown(name)}'; {error}")
    if not (is_terminal(sys.stdout) and _printed_by_rich(page)):
        _print(page.text.removesuffix("\n"))


def _listing(found: list[Page]) -> str:
    width = max(len(page.name) for page in found)
    lines = [f"{page.name:<{width}}  {page.summary}" for page in found]
    return "\n".join([*lines, "", "`streamer docs NAME` shows a page."])


def _printed_by_rich(page: Page) -> bool:
    """Returns False if rich is not installed."""
    try:
        from rich.console import Console  # noqa: PLC0415 - its packages are an extra of their own
        from rich.markdown import Markdown  # noqa: PLC0415
    except ImportError:
        return False
    console = Console()
    console.print(Markdown(page.text), width=min(console.width, MAX_WIDTH))
    return True


def _print(text: str) -> None:
    """Prints UTF-8, or the encoding of a terminal.

    Ends the process if standard output cannot be written; quietly if its reader has left, as in `… | head`.
    """
    if sys.stdout is None:
        _fail("standard output is closed")
    try:
        click.echo(text if is_terminal(sys.stdout) else text.encode())
    except BrokenPipeError:
        discard_buffered(sys.stdout)
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        discard_buffered(sys.stdout)
        _fail(f"standard output: {error.strerror or error}")


def _fail(sentence: str) -> NoReturn:
    click.echo(f"streamer: {sentence}", err=True)
    sys.exit(1)
