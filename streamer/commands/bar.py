"""The progress of one download, in two lines that fit into 80 columns.

    us.csv ━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━  71 %  620.1 MB  413.2 MB/s  0:00:01
    processing, 7,085,114 of about 10,000,000 rows

The first line shows the bytes that were received; the second line shows the status of the export, or why the download
waits. What is not known is left out. At the end only the first line stays.

The size of a compressed file cannot be estimated: it is known once the server has made the file.
"""

import time
from collections.abc import Callable, Iterable
from math import ceil
from typing import Self

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from streamer.client import ExportStatus, ProgressListener
from streamer.client.representation import Representation
from streamer.coding import Coding
from streamer.commands.rate import Rate
from streamer.commands.wording import expected_bytes, progress_after

MAX_NAME = 20  # characters
MAX_UNFINISHED = 99  # percent, while the size is an estimate


class ProgressBar(ProgressListener):
    """Draws on stderr until the context ends."""

    def __init__(
        self,
        name: str,
        coding: Coding = Coding.IDENTITY,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`coding` is that of the bytes that are counted; `clock` returns seconds."""
        self._coding = coding
        self._clock = clock
        self._rate = Rate(clock)
        self._count = 0  # bytes
        self._total: float | None = None  # bytes
        self._estimated = True
        self._status: ExportStatus | None = None
        self._step: str | None = None  # that is not the download itself
        self._next_try: tuple[str, float] | None = None  # the reason, and the moment
        shown = name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
        columns = [_Live(text) for text in (self._percentage, self._size, self._speed, self._remaining)]
        self._display = _TwoLines(columns, self._note, console or Console(stderr=True), clock)
        self._task = self._display.add_task(shown, total=None)

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._status is None and not self._count:
            self._display.update(self._task, visible=False)  # the sentence of the command says what happened
        self._display.end()

    @property
    def display(self) -> RenderableType:
        """What is drawn at this moment."""
        return self._display.get_renderable()

    def status(self, status: ExportStatus) -> None:
        self._status = status
        self._total, self._estimated = self._expected(status)
        self._draw()

    def received(self, count: int) -> None:
        self._rate.add(count)
        self._count = count
        self._step = None
        self._draw()

    def waiting(self, reason: str, seconds: float) -> None:
        self._draw(next_try=(reason, self._clock() + seconds))

    def checking(self, count: int) -> None:
        self._count = count
        self._step = "checking the bytes of earlier runs"
        self._draw()

    def decoding(self, count: int) -> None:
        self._step = f"decoding: {decimal(count)} of the CSV"
        self._draw()

    def _expected(self, status: ExportStatus) -> tuple[float | None, bool]:
        """Returns the size in bytes, if there is an idea of it, and whether it is an estimate."""
        found = Representation.of(status, self._coding)
        if found.completed:
            return found.bytes, False
        return expected_bytes(status) if self._coding is Coding.IDENTITY else None, True

    def _draw(self, next_try: tuple[str, float] | None = None) -> None:
        self._next_try = next_try
        self._display.update(self._task, completed=self._count, total=self._total)
        self._display.start()

    def _note(self) -> str:
        if self._next_try is None:
            return self._progress()
        reason, moment = self._next_try
        seconds = moment - self._clock()
        return f"next try in {ceil(seconds)} s: {reason}" if seconds > 0 else f"trying again: {reason}"

    def _progress(self) -> str:
        if self._step is not None:
            return self._step
        if self._status is None:
            return "waiting for the server"
        return progress_after(self._status, self._count if self._coding is Coding.IDENTITY else 0)

    def _percentage(self) -> str:
        if not self._total:
            return ""
        percentage = min(100 * self._count / self._total, 100)
        return f"{min(percentage, MAX_UNFINISHED) if self._estimated else percentage:3.0f} %"

    def _size(self) -> str:
        return f"{decimal(self._count) if self._status or self._count else '':>8}"

    def _speed(self) -> str:
        if self._ended:
            return ""
        if silence := self._rate.silence:
            return f"no data for {silence:.0f} s"
        speed = self._rate.bytes_per_second
        return f"{'' if speed is None else decimal(int(speed)) + '/s':>10}"

    def _remaining(self) -> str:
        """Returns hours, minutes and seconds; nothing while no bytes come."""
        speed = self._rate.bytes_per_second
        if self._total is None or not speed or self._rate.silence or self._ended:
            return ""
        minutes, seconds = divmod(round(max(self._total - self._count, 0) / speed), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

    @property
    def _ended(self) -> bool:
        """Whether all bytes are there."""
        return not self._estimated and self._count == self._total


class _Live(ProgressColumn):
    """A text that is computed again whenever the bar is drawn."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text(), justify="right")


class _TwoLines(Progress):
    def __init__(
        self,
        columns: Iterable[ProgressColumn],
        note: Callable[[], str],
        console: Console,
        clock: Callable[[], float],
    ) -> None:
        self._note: Callable[[], str] | None = note
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *columns,
            console=console,
            get_time=clock,
            expand=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._note:
            yield Text(self._note(), style="dim", no_wrap=True, overflow="ellipsis")

    def end(self) -> None:
        """Stops, and leaves the first line: the sentence of the command follows."""
        self._note = None
        self.stop()
