"""Exports as tables that fit into 80 columns.

Texts of the server are never parsed as markup of rich.
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from streamer.client import ExportStatus
from streamer.commands.wording import rows_of, status_name, wait_of

COLOURS = {"completed": "green", "failed": "red", "cancelled": "dim", "removed": "dim", "processing": "cyan"}
DEFAULTS = (("delimiter", ","), ("quoteChar", '"'))  # in every query, and not shown
HEADER = f"{'EXPORT':36} {'STATUS':10} {'ROWS':>11} {'SIZE':>9} {'CREATED':>10}"
BILLION = 10**9


def export_table(found: Iterable[ExportStatus], *, now: datetime | None = None) -> str:
    """Returns some lines for each export: progress, label, request. `now` decides which day is today."""
    console = Console(soft_wrap=not sys.stdout.isatty())
    today = (now or datetime.now()).astimezone()
    lines = [Text(HEADER, style="bold")]
    for status in found:
        lines += [_line(status, today), *_details(status, console.width)]
    return _render(console, *lines)


def status_table(status: ExportStatus) -> str:
    return _render(Console(), table_of(status))


def table_of(status: ExportStatus) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows: dict[str, str | Text | None] = {
        "export": str(status.export_id),
        "label": status.label,
        "status": _coloured(status_name(status)),
        "waits for": wait_of(status),
        "error": status.error,
        "notice": status.notice,
        "dataset": status.dataset,
        "columns": ", ".join(status.columns),
        "query": ", ".join(_conditions(status.query)),
        "rows": rows_of(status),
        "bytes": f"{status.progress.bytes:,}",
        "created": _moment(status.created_at),
        "snapshot": _moment(status.snapshot_at),
        status.status: _moment(status.completed_at) if status.final else None,
        "removed": _moment(status.removed_at) if status.removed else None,
        "expires": _moment(status.expires_at),
        "sha256": status.sha256,
        **{coding: f"{made.state}, {made.bytes:,} bytes" for coding, made in (status.representations or {}).items()},
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(value))
    return table


def _render(console: Console, *lines: RenderableType) -> str:
    """Returns the text, with the colours and the width that standard output has."""
    with console.capture() as capture:
        for line in lines:
            console.print(line)
    return capture.get().removesuffix("\n")


def _line(status: ExportStatus, today: datetime) -> Text:
    """Returns the columns of HEADER."""
    name, rows = status_name(status), _short_count(status.progress.processed_rows)
    size, created = decimal(status.progress.bytes), _short_moment(status.created_at, today)
    return Text.assemble(f"{status.export_id} ", _coloured(name, width=10), f" {rows:>11} {size:>9} {created:>10}")


def _details(status: ExportStatus, width: int) -> list[Text]:
    """Returns lines with the label and with the dataset and the conditions, if they are known, cut to `width`."""
    request = " ".join([status.dataset, *_conditions(status.query)]).strip()
    lines = [Text(f"  {part}", style="dim") for part in (status.label, request) if part]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _conditions(query: Mapping[str, Any]) -> list[str]:
    """Returns NAME=VALUE for everything in the query that is not a default."""
    return [f"{name}={_value(value)}" for name, value in query.items() if (name, value) not in DEFAULTS]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _coloured(name: str, width: int = 0) -> Text:
    return Text(f"{name:{width}}" if width else name, style=COLOURS.get(name, ""))


def _short_count(count: int) -> str:
    """Returns at most 11 characters."""
    return f"{count:,}" if count < BILLION else f"{count / BILLION:,.2f} G"


def _short_moment(moment: datetime | None, today: datetime) -> str:
    """Returns local time: the time of a moment of today, otherwise the date."""
    if moment is None:
        return ""
    local = moment.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == today.date() else "%Y-%m-%d")


def _moment(moment: datetime | None) -> str:
    """Returns local time, in seconds."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
