"""The rows and the expected size that the progress bar shows."""

from uuid import UUID

import pytest

from streamer.client.status import ExportStatus
from streamer.commands.wording import expected_bytes, rows_of
from streamer.schema import ExportProgress


def status(state: str, rows: int, total: int | None, *, estimated: bool = True, percentage: float = 0) -> ExportStatus:
    return ExportStatus(
        export_id=UUID(int=1),
        status=state,
        progress=ExportProgress(
            processed_rows=rows, bytes=10 * rows, percentage=percentage, total_rows=total, estimated=estimated
        ),
        etag='"x"',
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
