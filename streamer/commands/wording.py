"""The status of an export in words, for the progress bar, the tables and `status --watch`."""

from streamer.client import ExportStatus

WAITS_FOR = {
    "place": "its turn",
    "source": "the database: unreachable, locked or being changed",
}


def status_name(status: ExportStatus) -> str:
    return "removed" if status.removed else status.status


def progress_of(status: ExportStatus) -> str:
    """Returns the status with what is known about it: the rows, what it waits for, why it failed."""
    name = status_name(status)
    if status.error:
        return f"{name}: {status.error}"
    if status.waiting_for:
        return f"{name}, waiting for {wait_of(status)}"
    if status.final and not status.completed:
        return name
    return f"{name}, {rows_of(status)} rows"


def progress_after(status: ExportStatus, received: int) -> str:
    """Returns the same for a status that is older than the `received` bytes of the file: the rows are estimated."""
    progress = status.progress
    if status.final or received <= progress.bytes:
        return progress_of(status)
    if not progress.bytes or not progress.processed_rows:
        return "processing"
    rows = progress.processed_rows * received // progress.bytes
    total = progress.total_rows or 0
    return f"processing, about {min(rows, total):,} of {total:,} rows" if total else f"processing, about {rows:,} rows"


def wait_of(status: ExportStatus) -> str | None:
    """Returns what the export waits for; the server's own word if only a newer version knows it."""
    reason = status.waiting_for
    return WAITS_FOR.get(reason, reason) if reason else None


def rows_of(status: ExportStatus) -> str:
    """Returns the number of rows and, if it is known, of how many."""
    done, total = status.progress.processed_rows, status.progress.total_rows
    if status.completed or not total:
        return f"{done:,}"
    return f"{done:,} of {'about ' if status.progress.estimated else ''}{total:,}"


def expected_bytes(status: ExportStatus) -> float | None:
    """Returns the expected size, or None. It is computed from rows: the percentage may be that of an earlier run."""
    progress = status.progress
    if status.completed:
        return progress.bytes
    if not progress.processed_rows or not progress.total_rows:
        return None
    return progress.bytes * progress.total_rows / progress.processed_rows
