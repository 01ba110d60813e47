"""The progress of one download, in two lines that fit into 80 columns.

    us.csv ━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━  71 %  620.1 MB  413.2 MB/s  0:00:01
    processing, 7,085,114 of about 10,000,000 rows

The first line shows the bytes that were received; the second line shows the status of the export, or why the download
waits.
"""

from collections.abc import Iterable
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from streamer.client import ExportStatus, ProgressListener

MAX_NAME = 20  # characters


class ProgressBar(ProgressListener):
    """Draws on stderr from the first event on, until the context ends."""

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
        self._display = _TwoLines()
        self._task = self._display.add_task(shown, total=None)
        self._status_note = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._display.stop()

    def status(self, status: ExportStatus) -> None:
        self._status_note = f"{status.status}, {rows_of(status)} rows"
        self._display.update(self._task, total=expected_bytes(status))
        self._draw(self._status_note)

    def received(self, count: int) -> None:
        self._display.update(self._task, completed=count)
        self._draw(self._status_note)

    def waiting(self, reason: str, seconds: float) -> None:
        self._draw(f"{reason}; again in {seconds:.1f} s")

    def checking(self, count: int) -> None:
        self._display.update(self._task, completed=count)
        self._draw("checking the bytes of earlier runs")

    def _draw(self, note: str) -> None:
        self._display.note = note
        self._display.start()


class _TwoLines(Progress):
    note = ""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn("{task.percentage:>3.0f} %"),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            expand=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.note, style="dim", no_wrap=True, overflow="ellipsis")


def expected_bytes(status: ExportStatus) -> float | None:
    """Returns the expected size, or None. It is computed from rows: the percentage may be that of an earlier run."""
    progress = status.progress
    if status.completed:
        return progress.bytes
    if not progress.processed_rows or not progress.total_rows:
        return None
    return progress.bytes * progress.total_rows / progress.processed_rows


def rows_of(status: ExportStatus) -> str:
    """Returns the number of rows and, if it is known, of how many."""
    done, total = status.progress.processed_rows, status.progress.total_rows
    if status.completed or not total:
        return f"{done:,}"
    return f"{done:,} of {'about ' if status.progress.estimated else ''}{total:,}"
