"""The JSON of the API: the server's bytes, member by member, and what a client reads of older and newer servers."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from streamer import schema
from streamer.client.status import ExportPage, ExportStatus
from streamer.http.api.datasets import description, summary
from streamer.http.api.status import UNREADABLE, export_status
from streamer.http.links import Links
from streamer.http.problems import early_response
from streamer.model import Condition, Dialect, Export, ExportSpec, Operator, Order, Progress, State
from streamer.schema import (
    CancelledJob,
    Created,
    CreatedJob,
    DatasetDescription,
    DatasetList,
    Problem,
    Timestamp,
    decode,
    encode,
    to_builtins,
)
from streamer.source.dataset import Column, Dataset

ID = UUID("12345678-1234-4678-9234-567812345678")
TTL = timedelta(hours=24)
LINKS = Links("https://example.org/prefix")
END = datetime(2024, 5, 1, 12, 0, 2, 999_999, tzinfo=UTC)
RUNNING = Export(
    id=ID,
    principal="open",
    epoch=1,
    state=State.PROCESSING,
    spec=ExportSpec(
        dataset="users",
        columns=("id", "näme"),
        conditions=(
            Condition(column="id", operator=Operator.GT, values=("1",)),
            Condition(column="country_code", operator=Operator.EQ, values=("US", "DE")),
        ),
        order=(Order(column="id", descending=True),),
        limit=7,
        dialect=Dialect(delimiter="\t", header=False, null='"'),
    ),
    progress=Progress(total_rows=10, processed_rows=3, bytes=42, percentage=30.5, rows_per_second=1500),
    created_at=datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC),
    started_at=datetime(2024, 5, 1, 12, 0, 1, 5_000, tzinfo=UTC),
    finished_at=None,
    snapshot_at=datetime(2024, 5, 1, 12, 0, 1, 250_999, tzinfo=UTC),
    removed_at=None,
    error=None,
    sha256=None,
    attempts=2,
    served=True,
    truncated=False,
    waiting_for="source",
    folder=None,
    label="Month end",
    ttl=timedelta(hours=2),
)
FINISHED = replace(
    RUNNING,
    state=State.COMPLETED,
    progress=Progress(
        total_rows=3, estimated=False, processed_rows=3, bytes=42, percentage=100.0, rows_per_second=1500
    ),
    finished_at=END,
    sha256=bytes(range(32)),
    waiting_for=None,
    truncated=True,
)
EXPORTS = {
    "pending": replace(
        RUNNING,
        state=State.PENDING,
        spec=ExportSpec(dataset="users", columns=("id",)),
        progress=Progress(),
        started_at=None,
        snapshot_at=None,
        attempts=0,
        waiting_for=None,
        label=None,
        ttl=None,
    ),
    "processing": RUNNING,
    "completed": FINISHED,
    "failed": replace(RUNNING, state=State.FAILED, error='PostgreSQL: "division" by zero', finished_at=END),
    "cancelled": replace(RUNNING, state=State.CANCELLED, finished_at=END, removed_at=END),
    "removed": replace(FINISHED, removed_at=datetime(2024, 5, 2, tzinfo=UTC)),
    "unreadable": replace(FINISHED, spec=None),
    "of a newer server": replace(RUNNING, state="archived"),
}

URL = f"https://example.org/prefix/exports/{ID}"
ONLY_SELF = {"self": f"{URL}/status"}
BOTH_LINKS = {"self": f"{URL}/status", "download": f"{URL}/download"}
FROZEN_RUNNING: dict[str, Any] = {
    "exportId": str(ID),
    "status": "processing",
    "progress": {
        "totalRows": 10,
        "processedRows": 3,
        "percentage": 30.5,
        "estimated": True,
        "bytes": 42,
        "rowsPerSecond": 1500,
    },
    "error": None,
    "createdAt": "2024-05-01T12:00:00.000Z",
    "startedAt": "2024-05-01T12:00:01.005Z",
    "completedAt": None,
    "snapshotAt": "2024-05-01T12:00:01.250Z",
    "expiresAt": None,
    "removedAt": None,
    "waitingFor": "source",
    "attempts": 2,
    "label": "Month end",
    "ttl": 7200.0,
    "dataset": "users",
    "columns": ["id", "näme"],
    "query": {
        "id__gt": "1",
        "country_code": ["US", "DE"],
        "order_by": ["-id"],
        "limit": 7,
        "delimiter": "\t",
        "quoteChar": '"',
        "header": False,
        "null": '"',
    },
    "truncated": False,
    "sha256": None,
    "etag": f'"{ID}"',
    "links": BOTH_LINKS,
}
FROZEN_FINISHED: dict[str, Any] = FROZEN_RUNNING | {
    "status": "completed",
    "progress": {
        "totalRows": 3,
        "processedRows": 3,
        "percentage": 100.0,
        "estimated": False,
        "bytes": 42,
        "rowsPerSecond": 1500,
    },
    "completedAt": "2024-05-01T12:00:02.999Z",
    "expiresAt": "2024-05-01T14:00:02.999Z",
    "waitingFor": None,
    "truncated": True,
    "sha256": bytes(range(32)).hex(),
}
FROZEN: dict[str, dict[str, Any]] = {
    "pending": FROZEN_RUNNING
    | {
        "status": "pending",
        "progress": {
            "totalRows": 0,
            "processedRows": 0,
            "percentage": 0.0,
            "estimated": True,
            "bytes": 0,
            "rowsPerSecond": 0,
        },
        "startedAt": None,
        "snapshotAt": None,
        "waitingFor": "place",
        "attempts": 0,
        "label": None,
        "ttl": None,
        "columns": ["id"],
        "query": {"delimiter": ",", "quoteChar": '"'},
    },
    "processing": FROZEN_RUNNING,
    "completed": FROZEN_FINISHED,
    "failed": FROZEN_RUNNING
    | {
        "status": "failed",
        "error": 'PostgreSQL: "division" by zero',
        "completedAt": "2024-05-01T12:00:02.999Z",
        "waitingFor": None,
    },
    "cancelled": FROZEN_RUNNING
    | {
        "status": "cancelled",
        "completedAt": "2024-05-01T12:00:02.999Z",
        "removedAt": "2024-05-01T12:00:02.999Z",
        "waitingFor": None,
        "links": ONLY_SELF,
    },
    "removed": FROZEN_FINISHED | {"expiresAt": None, "removedAt": "2024-05-02T00:00:00.000Z", "links": ONLY_SELF},
    "unreadable": {
        name if name != "dataset" else "notice": value if name != "dataset" else UNREADABLE
        for name, value in FROZEN_FINISHED.items()
        if name not in ("columns", "query")
    },
    "of a newer server": FROZEN_RUNNING | {"status": "archived"},
}

DATASETS = (
    Dataset(
        name="us ers",
        schema="public",
        relation="users",
        columns={
            "id": Column(name="id", declared="bigint", type="int8", length=None, category="N"),
            "näme": Column(name="näme", declared="text", type="text", length=None, category="S"),
        },
        order=(Order(column="id", descending=True),),
        required=("id",),
        limit=100,
        description="All users",
        estimated_rows=12,
    ),
    Dataset(name="users", schema="public", relation="users", columns={}),
)
FROZEN_DATASETS: list[dict[str, Any]] = [
    {
        "name": "us ers",
        "description": "All users",
        "estimatedRows": 12,
        "requiredFilters": ["id"],
        "orderBy": ["-id"],
        "rowLimit": 100,
        "example": "https://example.org/prefix/exports/csv?dataset=us+ers&id=1&limit=10",
        "links": {"self": "https://example.org/prefix/datasets/us%20ers"},
    },
    {
        "name": "users",
        "description": None,
        "estimatedRows": None,
        "requiredFilters": [],
        "orderBy": [],
        "rowLimit": None,
        "example": "https://example.org/prefix/exports/csv?dataset=users&limit=10",
        "links": {"self": "https://example.org/prefix/datasets/users"},
    },
]
FROZEN_COLUMNS = [
    {
        "name": "id",
        "type": "bigint",
        "operators": ["eq", "ne", "gte", "gt", "lte", "lt", "isnull"],
        "parameters": ["id", "id__ne", "id__gte", "id__gt", "id__lte", "id__lt", "id__isnull", "id__in"],
        "ordered": True,
        "required": True,
    },
    {
        "name": "näme",
        "type": "text",
        "operators": ["eq", "ne", "gte", "gt", "lte", "lt", "contains", "startswith", "isnull"],
        "parameters": [
            "näme",
            "näme__ne",
            "näme__gte",
            "näme__gt",
            "näme__lte",
            "näme__lt",
            "näme__contains",
            "näme__startswith",
            "näme__isnull",
            "näme__in",
        ],
        "ordered": True,
        "required": False,
    },
]


def frozen(members: dict[str, Any]) -> bytes:
    return msgspec.json.encode(members)


def status_of(export: Export) -> schema.ExportStatus:
    return export_status(export, None, ttl=TTL, links=LINKS)


@pytest.mark.parametrize("name", FROZEN)
def test_the_status_of_an_export_has_the_frozen_bytes(name: str) -> None:
    assert encode(status_of(EXPORTS[name])) == frozen(FROZEN[name])


def test_a_page_of_exports_has_the_frozen_bytes() -> None:
    page = schema.ExportPage(exports=(status_of(FINISHED),), next_cursor="1714564800000000.id")
    assert encode(page) == frozen({"exports": [FROZEN_FINISHED], "nextCursor": "1714564800000000.id"})
    assert encode(schema.ExportPage(exports=())) == frozen({"exports": [], "nextCursor": None})


def test_datasets_have_the_frozen_bytes() -> None:
    found = DatasetList(datasets=tuple(summary(dataset, LINKS) for dataset in DATASETS))
    assert encode(found) == frozen({"datasets": FROZEN_DATASETS})
    assert encode(description(DATASETS[0], LINKS)) == frozen(FROZEN_DATASETS[0] | {"columns": FROZEN_COLUMNS})


def test_answers_to_create_and_cancel_have_the_frozen_bytes() -> None:
    created = Created(export_id=ID, status=State.PENDING, links=LINKS.of(ID))
    assert encode(created) == frozen({"exportId": str(ID), "status": "pending", "links": BOTH_LINKS})
    job = CreatedJob(export_id=ID, job_id=ID, status=State.PENDING)
    assert encode(job) == frozen({"exportId": str(ID), "jobId": str(ID), "status": "pending"})
    cancelled = CancelledJob(job_id=ID, export_id=ID, status=State.CANCELLED)
    assert encode(cancelled) == frozen({"jobId": str(ID), "exportId": str(ID), "status": "cancelled"})


def test_a_problem_of_the_server_has_the_members_of_the_schema() -> None:
    _, body = early_response(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections").split(b"\r\n\r\n")
    problem = decode(body, Problem)
    assert (problem.detail, problem.error, problem.instance) == ("too many connections", "too many connections", UNSET)
    assert encode(problem) == body


@pytest.mark.parametrize("name", FROZEN)
def test_the_client_reads_the_status_that_the_server_writes(name: str) -> None:
    sent = status_of(EXPORTS[name])
    found = decode(encode(sent), ExportStatus)
    assert found.completed_at == (END.replace(microsecond=999_000) if sent.completed_at else None)
    assert (found.status, found.progress, found.links) == (sent.status, sent.progress, sent.links)
    assert (found.dataset, found.notice) == (("", UNREADABLE) if name == "unreadable" else ("users", None))
    assert found.removed is (name == "removed")


def test_the_client_prints_the_members_that_the_server_sent() -> None:
    found = to_builtins(decode(encode(status_of(FINISHED)), ExportStatus))
    assert found.pop("notice") is None
    assert found == {**FROZEN_FINISHED, "columns": ("id", "näme")}


def test_the_client_reads_a_status_with_only_the_required_members() -> None:
    progress = {"processedRows": 1, "bytes": 2, "percentage": 50}
    body = {"exportId": str(ID), "status": "pending", "progress": progress, "etag": '"x"'}
    found = decode(json.dumps(body).encode(), ExportStatus)
    assert (found.created_at, found.dataset, found.columns, found.query) == (None, "", (), {})
    assert (found.links, found.progress.total_rows, found.progress.rows_per_second) == (UNSET, 0, 0)


def test_the_client_ignores_members_that_only_a_newer_server_knows() -> None:
    newer = FROZEN_RUNNING | {"status": "archived", "representations": {}, "links": BOTH_LINKS | {"events": "/events"}}
    page = decode(json.dumps({"exports": [newer], "nextCursor": None, "total": 1}).encode(), ExportPage)
    assert (page.exports[0].status, page.exports[0].final) == ("archived", False)


def test_null_for_the_total_of_an_older_server_is_read() -> None:
    older = FROZEN_RUNNING | {"progress": FROZEN_RUNNING["progress"] | {"totalRows": None}}
    assert decode(json.dumps(older).encode(), ExportStatus).progress.total_rows is None


def test_datasets_are_read_back() -> None:
    sent = description(DATASETS[0], LINKS)
    assert decode(encode(sent), DatasetDescription) == sent


MOMENTS = (
    (datetime(2024, 5, 1, tzinfo=UTC), "2024-05-01T00:00:00.000Z"),
    (datetime(2024, 5, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))), "2024-04-30T22:30:00.000Z"),
    (datetime(2024, 5, 1, 23, 59, 59, 999_999, tzinfo=UTC), "2024-05-01T23:59:59.999Z"),
    (datetime(2024, 5, 1, 1, 2, 3, 456_789, tzinfo=timezone(-timedelta(minutes=90))), "2024-05-01T02:32:03.456Z"),
)


@pytest.mark.parametrize(("moment", "text"), MOMENTS)
def test_a_timestamp_is_in_utc_and_cut_to_milliseconds(moment: datetime, text: str) -> None:
    assert encode(Timestamp.of(moment)) == frozen_text(text)
    assert decode(frozen_text(text), Timestamp) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def frozen_text(text: str) -> bytes:
    return f'"{text}"'.encode()


@pytest.mark.parametrize("body", [b'"yesterday"', b'"2024-05-01"', b"1714564800", b"true", b"[]", b'""'])
def test_a_timestamp_that_is_no_date_time_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(body, Timestamp)


def test_a_value_without_a_form_in_json_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="complex has no form in JSON"):
        encode({"number": 1j})
