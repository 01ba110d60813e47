"""The status of an export in words, and the size that is expected of it."""

from typing import Any
from uuid import UUID

import pytest

from streamer.client.status import ExportStatus
from streamer.commands.wording import expected_bytes, progress_of, rows_of
from streamer.schema import ExportProgress, Timestamp


def status(
    name: str,
    rows: int,
    total: int | None,
    *,
    estimated: bool = True,
    percentage: float = 0,
    **members: Any,
) -> ExportStatus:
    return ExportStatus(
        export_id=UUID(int=1),
        status=name,
        progress=ExportProgress(
            processed_rows=rows, bytes=10 * rows, percentage=percentage, total_rows=total, estimated=estimated
        ),
        etag='"x"',
        **members,
    )


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (status("pending", 0, 0), "0"),
        (status("pending", 0, None), "0"),  # an older server
        (status("processing", 0, 1_000), "0 of about 1,000"),
        (status("processing", 500, 1_000), "500 of about 1,000"),
        (status("cancelled", 0, 0), "0"),
        (status("failed", 500, 1_000), "500 of about 1,000"),
        (status("completed", 0, 0, estimated=False), "0"),
        (status("completed", 1_000, 1_000, estimated=False), "1,000"),
        (status("archived", 5, 10, estimated=False), "5 of 10"),
    ],
)
def test_rows_are_shown_with_the_total_once_it_is_known(found: ExportStatus, shown: str) -> None:
    assert rows_of(found) == shown


@pytest.mark.parametrize(
    ("found", "total"),
    [
        (status("pending", 0, 0), None),
        (status("processing", 500, 1_000, percentage=50), 10_000),
        (status("processing", 0, 1_000, percentage=75), None),  # run again
        (status("processing", 100, 1_000, percentage=75), 10_000),
        (status("completed", 0, 0, percentage=100), 0),
    ],
)
def test_the_expected_size_is_that_of_the_current_run(found: ExportStatus, total: float | None) -> None:
    assert expected_bytes(found) == total


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (status("pending", 0, 0, waiting_for="place"), "pending, waiting for its turn"),
        (status("pending", 0, 0, waiting_for="source"), "pending, waiting for the database: unreachable"),
        (status("processing", 5, 10), "processing, 5 of about 10 rows"),
        (status("completed", 10, 10, expires_at=Timestamp(2026, 1, 1)), "completed, 10 rows"),
        (status("completed", 10, 10), "removed, 10 rows"),
        (status("failed", 5, 10, error="a view is gone"), "failed: a view is gone"),
        (status("cancelled", 5, 10), "cancelled"),
        (status("archived", 5, 10), "archived, 5 of about 10 rows"),
    ],
)
def test_progress_says_what_is_known_of_an_export(found: ExportStatus, words: str) -> None:
    assert progress_of(found).startswith(words)
