"""cli.md: from the help of the commands."""

import click

from streamer.cli import main
from tests.docs.markdown import fenced, filled

WIDTH = 100  # columns
CONTEXT = {"terminal_width": WIDTH, "max_content_width": WIDTH}


def cli_page() -> str:
    parent = click.Context(main, info_name="streamer", terminal_width=WIDTH, max_content_width=WIDTH)
    commands = "\n\n".join(_section(parent, main.commands[name]) for name in main.list_commands(parent))
    return filled("cli", {"streamer": _help(parent), "commands": commands})


def _section(parent: click.Context, command: click.Command) -> str:
    context = click.Context(command, parent=parent, info_name=command.name, terminal_width=WIDTH)
    return f"## streamer {command.name}\n\n{_help(context)}"


def _help(context: click.Context) -> str:
    help_options = {"help_option_names": ["-h", "--help"]}
    context.help_option_names = help_options["help_option_names"]
    return fenced("text", context.command.get_help(context))
