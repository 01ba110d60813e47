"""Examples of the JSON of the API, encoded from the same Structs that the server uses."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from streamer.schema import (
    CancelledJob,
    ColumnDescription,
    Created,
    CreatedJob,
    DatasetDescription,
    DatasetLinks,
    DatasetList,
    DatasetSummary,
    ExportLinks,
    ExportProgress,
    ExportStatus,
    ServerDescription,
    ServerLinks,
    Timestamp,
    encode,
)

ID = UUID("6f1f8d2c-4c1e-4f53-9d0b-7b6f6d3a2e10")
LINKS = ExportLinks(self_=f"/exports/{ID}/status", download=f"/exports/{ID}/download")
BEGIN = Timestamp(2026, 11, 21, 9, 30, 0, 125000, UTC)
SUMMARY = DatasetSummary(
    name="users",
    description="One row for each user",
    estimated_rows=1_000_000,
    example="/exports/csv?dataset=users&limit=10",
    links=DatasetLinks(self_="/datasets/users"),
)


def after(seconds: float) -> Timestamp:
    return Timestamp.of(datetime.fromtimestamp(BEGIN.timestamp(), UTC) + timedelta(seconds=seconds))


def status(**changes: object) -> ExportStatus:
    running = ExportStatus(
        export_id=ID,
        status="processing",
        progress=ExportProgress(
            total_rows=1_000_000, processed_rows=420_000, percentage=42.0, bytes=37_800_000, rows_per_second=2_100_000
        ),
        created_at=BEGIN,
        started_at=after(0.004),
        snapshot_at=after(0.007),
        attempts=1,
        label="best customers",
        dataset="users",
        columns=("id", "email"),
        query={"lifetime_value__gte": "500", "delimiter": ",", "quoteChar": '"'},
        etag=f'"{ID}"',
        links=LINKS,
    )
    return msgspec.structs.replace(running, **changes)


def completed() -> ExportStatus:
    return status(
        status="completed",
        progress=ExportProgress(
            total_rows=998_877,
            processed_rows=998_877,
            percentage=100.0,
            estimated=False,
            bytes=89_900_211,
            rows_per_second=2_080_000,
        ),
        completed_at=after(0.491),
        expires_at=after(0.491 + 24 * 60 * 60),
        sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    )


EXAMPLES: dict[str, object] = {
    "home": ServerDescription(
        name="streamer",
        version="0.1.0",
        links=ServerLinks(self_="/", documentation="/docs", datasets="/datasets", exports="/exports", health="/health"),
    ),
    "created": Created(export_id=ID, status="pending", links=LINKS),
    "created job": CreatedJob(export_id=ID, job_id=ID, status="pending"),
    "cancelled job": CancelledJob(job_id=ID, export_id=ID, status="cancelled"),
    "running": status(),
    "completed": completed(),
    "datasets": DatasetList(datasets=(SUMMARY,)),
    "dataset": DatasetDescription(
        **msgspec.structs.asdict(SUMMARY),
        columns=(
            ColumnDescription(
                name="id",
                type="bigint",
                operators=("eq", "ne", "gte", "gt", "lte", "lt", "isnull"),
                parameters=("id", "id__ne", "id__gte", "id__gt", "id__lte", "id__lt", "id__isnull", "id__in"),
            ),
        ),
    ),
}


def pretty(json: bytes) -> str:
    return msgspec.json.format(json, indent=2).decode()


def example(name: str) -> str:
    return pretty(encode(EXAMPLES[name]))
