"""The tables of `ls` and `status`, which fit into 80 columns."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from streamer.client.status import ExportStatus
from streamer.commands.tables import export_table, status_table
from streamer.schema import ExportProgress, RepresentationStatus, Timestamp

ID = UUID("b42ef8e9-f053-4b3b-ac2a-212af6ebadc3")
CREATED = Timestamp(2026, 11, 25, 12, 30, 15, tzinfo=UTC)
ENDED = Timestamp(2026, 11, 25, 12, 31, 16, tzinfo=UTC)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")


def status(name: str = "processing", rows: int = 7, size: int = 70, **members: Any) -> ExportStatus:
    members = {"created_at": CREATED, "dataset": "users", "columns": ("id",), **members}
    progress = ExportProgress(processed_rows=rows, bytes=size, percentage=0)
    return ExportStatus(export_id=ID, status=name, progress=progress, etag='"x"', **members)


def rows_of(found: ExportStatus) -> dict[str, str]:
    """Returns the table as {name: value}."""
    lines = status_table(found).splitlines()
    assert all(len(line) <= 80 for line in lines)
    return {name: rest[0].strip() if rest else "" for name, *rest in (line.split(None, 1) for line in lines)}


@pytest.mark.parametrize(
    ("name", "members", "label"),
    [
        ("completed", {"expires_at": ENDED}, "completed"),
        ("failed", {"error": "a view is gone"}, "failed"),
        ("cancelled", {}, "cancelled"),
    ],
)
def test_the_moment_of_the_end_is_labelled_by_what_happened(name: str, members: dict[str, Any], label: str) -> None:
    rows = rows_of(status(name, completed_at=ENDED, **members))
    assert rows["status"] == label
    assert rows[label] == f"{ENDED.astimezone():%Y-%m-%d %H:%M:%S}"
    assert {"completed", "failed", "cancelled", "removed"} & set(rows) == {label}


def test_a_removed_export_shows_when_it_was_completed_and_removed() -> None:
    removed = Timestamp(2026, 11, 26, 1, 0, 0, tzinfo=UTC)
    rows = rows_of(status("completed", completed_at=ENDED, removed_at=removed))
    assert rows["status"] == "removed"
    assert rows["completed"] == f"{ENDED.astimezone():%Y-%m-%d %H:%M:%S}"
    assert rows["removed"] == f"{removed.astimezone():%Y-%m-%d %H:%M:%S}"


def test_a_status_says_in_words_what_the_export_waits_for() -> None:
    table = status_table(status("pending", waiting_for="place"))
    assert "waits for  its turn" in table


def test_the_compressed_files_are_shown_with_their_state_and_size() -> None:
    made = RepresentationStatus(state="completed", etag='"x"', bytes=1234)
    assert rows_of(status("completed", representations={"gzip": made}))["gzip"] == "completed, 1,234 bytes"
    assert "gzip" not in rows_of(status("completed"))


def test_an_export_is_listed_with_its_label_dataset_and_conditions() -> None:
    query = {"country_code": ["US", "DE"], "limit": 5, "bom": True, "delimiter": ",", "quoteChar": '"'}
    found = status("failed", label="[red]x[/]", query=query)
    assert export_table([found], now=datetime(2026, 11, 27, tzinfo=UTC)).splitlines() == [
        "EXPORT                               STATUS            ROWS      SIZE    CREATED",
        f"{ID} failed               7  70 bytes 2026-11-25",
        "  [red]x[/]",
        "  users country_code=US,DE limit=5 bom=true",
    ]


def test_an_export_of_today_is_listed_with_its_time() -> None:
    table = export_table([status()], now=CREATED)
    assert table.splitlines()[1].endswith(f"{CREATED.astimezone():%H:%M:%S}")


@pytest.mark.parametrize("rows", [0, 999_999_999, 1_234_567_890, 10**12])
@pytest.mark.parametrize("size", [999, 999_900, 10**18])
def test_a_list_fits_into_80_columns(rows: int, size: int) -> None:
    long = status("processing", rows, size, label="x" * 100, query={"name": "y" * 200})
    assert max(len(line) for line in export_table([long]).splitlines()) == 80


def test_an_export_of_a_newer_server_is_listed_without_its_request() -> None:
    assert len(export_table([status("archived", dataset="", columns=(), label=None)]).splitlines()) == 2
