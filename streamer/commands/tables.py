"""Exports as tables that fit into 80 columns.

Texts of the server are escaped, because they may look like the markup of rich.
"""

import sys
from collections.abc import Iterable
from datetime import datetime

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from streamer.client import ExportStatus
from streamer.commands.bar import rows_of

COLOURS = {"completed": "green", "failed": "red", "cancelled": "dim", "removed": "dim", "processing": "cyan"}
DEFAULTS = (("delimiter", ","), ("quoteChar", '"'))  # in every query, and not shown


def export_table(found: Iterable[ExportStatus]) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("EXPORT", "STATE"):
        table.add_column(name, no_wrap=True)
    for name in ("ROWS", "SIZE", "CREATED"):
        table.add_column(name, justify="right", no_wrap=True)
    for status in found:
        rows, size = f"{status.progress.processed_rows:,}", decimal(status.progress.bytes)
        table.add_row(_name(status), _state(status), rows, size, _short(status.created_at))
    return _render(Console(soft_wrap=not sys.stdout.isatty()), table)


def status_table(status: ExportStatus) -> str:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "export": str(status.export_id),
        "label": status.label,
        "state": str(status.status),
        "waits for": status.waiting_for,
        "error": status.error,
        "notice": status.notice,
        "dataset": status.dataset,
        "columns": ", ".join(status.columns),
        "query": ", ".join(f"{name}={value}" for name, value in status.query.items() if (name, value) not in DEFAULTS),
        "rows": rows_of(status),
        "bytes": f"{status.progress.bytes:,}",
        "created": _moment(status.created_at),
        "snapshot": _moment(status.snapshot_at),
        "completed": _moment(status.completed_at),
        "expires": _moment(status.expires_at),
        "sha256": status.sha256,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, _state(status) if name == "state" else escape(value))
    return _render(Console(), table)


def _render(console: Console, table: Table) -> str:
    """Returns the text of the table, with the colours and the width that standard output has."""
    with console.capture() as capture:
        console.print(table)
    return capture.get().removesuffix("\n")


def _name(status: ExportStatus) -> Text:
    """Returns the id and, in a second line, the label, truncated to the width of the id."""
    name = Text(str(status.export_id))
    if status.label:
        label = Text(status.label, style="dim")
        label.truncate(name.cell_len, overflow="ellipsis")
        name.append("\n").append_text(label)
    return name


def _state(status: ExportStatus) -> str:
    name = "removed" if status.removed else escape(str(status.status))
    colour = COLOURS.get(name)
    return f"[{colour}]{name}[/]" if colour else name


def _short(moment: datetime | None) -> str:
    """Returns 8 characters: the time of a moment of today, otherwise the date."""
    if moment is None:
        return ""
    local, today = moment.astimezone(), datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%y-%m-%d")


def _moment(moment: datetime | None) -> str:
    """Returns local time, in seconds."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
