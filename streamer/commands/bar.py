"""The progress of one download, in two lines that fit into 80 columns.

    us.csv ━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━  71 %  620.1 MB  413.2 MB/s  0:00:01
    processing, 7,085,114 of about 10,000,000 rows

The first one is what has come; the second what the server says, and why nothing comes if nothing does.
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


class Bar(ProgressListener):
    """On stderr, while it is a context, once there is something to see."""

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
        self._drawn = _TwoLines()
        self._task = self._drawn.add_task(shown, total=None)
        self._server_says = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._drawn.stop()

    def status(self, status: ExportStatus) -> None:
        self._server_says = f"{status.state}, {rows_of(status)} rows"
        self._drawn.update(self._task, total=expected_bytes(status))
        self._draw(self._server_says)

    def received(self, count: int) -> None:
        self._drawn.update(self._task, completed=count)
        self._draw(self._server_says)

    def waiting(self, reason: str, seconds: float) -> None:
        self._draw(f"{reason}; again in {seconds:.1f} s")

    def checking(self, count: int) -> None:
        self._drawn.update(self._task, completed=count)
        self._draw("reading what earlier runs have brought")

    def _draw(self, note: str) -> None:
        self._drawn.note = note
        self._drawn.start()


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
    """Of this run, as far as can be told: by the rows, as the percentage may be that of an earlier run."""
    progress = status.progress
    if status.completed:
        return progress.bytes
    if not progress.processed_rows or not progress.total_rows:
        return None
    return progress.bytes * progress.total_rows / progress.processed_rows


def rows_of(status: ExportStatus) -> str:
    """How many rows of how many, once that is known."""
    done, total = status.progress.processed_rows, status.progress.total_rows
    if status.completed or not total:
        return f"{done:,}"
    return f"{done:,} of {'about ' if status.progress.estimated else ''}{total:,}"
