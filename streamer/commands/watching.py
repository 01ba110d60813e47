"""`streamer status --watch`: follows an export until it ends.

The client passes every status, and every wait before another try, to a ProgressListener, which shows it.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Self

from streamer.client import Export, ExportStatus, ProgressListener
from streamer.commands.interrupts import exit_in_order_on_sigterm
from streamer.commands.output import is_terminal, missing_rich, print_json, print_stdout, standard_output
from streamer.commands.wording import progress_of
from streamer.schema import to_builtins

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

POLL_INTERVAL = 1.0  # seconds between two requests for the status


async def watch(export: Export) -> None:
    """Returns once the export is completed. Raises ExportFailed and ExportGone if it ends otherwise, and GaveUp."""
    while True:
        status = await export.status()
        if status.final:
            return status.raise_if_ended_badly()
        await asyncio.sleep(POLL_INTERVAL)


def watcher(*, as_json: bool) -> "Lines | Screen":
    """Returns what shows the statuses: on a terminal a table that is redrawn, otherwise a line for each change."""
    if not as_json and is_terminal(standard_output()):
        return Screen()
    return Lines(_json_of if as_json else _line_of)


class Lines(ProgressListener):
    """Prints a line when the status changes, or what the export waits for, or the whole percentage."""

    def __init__(self, line_of: Callable[[ExportStatus], None]) -> None:
        self._print = line_of
        self._shown: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def status(self, status: ExportStatus) -> None:
        state = status.status, status.waiting_for, int(status.progress.percentage)
        if state != self._shown:
            self._print(status)
        self._shown = state


class Screen(ProgressListener):
    """Redraws the table of the export on standard output."""

    def __init__(self, console: "Console | None" = None) -> None:
        try:
            from rich.live import Live  # noqa: PLC0415 - its package is an extra of its own
        except ImportError as error:
            raise missing_rich("the table of --watch", "--json") from error
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        exit_in_order_on_sigterm()
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def status(self, status: ExportStatus) -> None:
        from streamer.commands.tables import table_of  # noqa: PLC0415 - its package is an extra of its own

        self._draw(table_of(status))

    def waiting(self, reason: str, seconds: float) -> None:
        self._draw(f"next try in {ceil(seconds)} s: {reason}")

    def _draw(self, drawn: "RenderableType") -> None:
        self._live.update(drawn, refresh=True)


def _line_of(status: ExportStatus) -> None:
    print_stdout(f"{datetime.now():%H:%M:%S} {progress_of(status)}")


def _json_of(status: ExportStatus) -> None:
    print_json(to_builtins(status))
