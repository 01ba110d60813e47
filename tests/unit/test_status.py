"""The status of an export as JSON: times, progress, and the query by the names of the request parameters."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from streamer.http.api.status import UNREADABLE, entity_tag, export_status
from streamer.http.links import Links
from streamer.jobs.active import ActiveExport
from streamer.model import OPEN, Condition, Dialect, Export, ExportSpec, Operator, Order, Progress, State, Timestamps
from streamer.schema import ExportLinks, encode
from streamer.source.catalog.catalog import Catalog
from streamer.source.dataset import Column, Dataset
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.asking import read_spec

ID = UUID("12345678-1234-4678-9234-567812345678")
CATALOG = Catalog(
    {
        "users": Dataset(
            name="users",
            schema="public",
            relation="users",
            columns={
                name: Column(
                    name=name,
                    declared=type_name,
                    type=type_name,
                    length=None,
                    category="S" if type_name == "text" else "U",
                )
                for name, type_name in (
                    ("id", "int8"),
                    ("name", "text"),
                    ("signup_date", "timestamptz"),
                    ("country_code", "bpchar"),
                    ("lifetime_value", "numeric"),
                )
            },
        )
    }
)
TTL = timedelta(hours=24)
EXPORT = Export(
    id=ID,
    principal="open",
    epoch=1,
    state=State.COMPLETED,
    spec=ExportSpec(dataset="users", columns=("id", "name")),
    progress=Progress(
        total_rows=3, estimated=False, processed_rows=3, bytes=42, percentage=100.0, rows_per_second=1500
    ),
    created_at=datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC),
    started_at=datetime(2024, 5, 1, 12, 0, 1, 5_000, tzinfo=UTC),
    finished_at=datetime(2024, 5, 1, 12, 0, 2, 999_999, tzinfo=UTC),
    snapshot_at=datetime(2024, 5, 1, 12, 0, 1, 250_000, tzinfo=UTC),
    removed_at=None,
    error=None,
    sha256=bytes(range(32)),
    attempts=1,
    served=True,
    truncated=False,
    waiting_for=None,
    folder=None,
    label=None,
    ttl=None,
)


def shown(export: Export, live: ActiveExport | None = None) -> dict[str, Any]:
    """Returns the decoded JSON of the status."""
    found: dict[str, Any] = json.loads(encode(export_status(export, live, ttl=TTL, links=Links())))
    return found


def echo(*conditions: Condition, dialect: Dialect | None = None) -> dict[str, Any]:
    spec = ExportSpec(dataset="users", columns=("id",), conditions=conditions, dialect=dialect or Dialect())
    found: dict[str, Any] = shown(replace(EXPORT, spec=spec))["query"]
    return found


def test_a_completed_export_has_every_member() -> None:
    assert shown(EXPORT) == {
        "exportId": str(ID),
        "status": "completed",
        "progress": {
            "totalRows": 3,
            "processedRows": 3,
            "percentage": 100.0,
            "estimated": False,
            "bytes": 42,
            "rowsPerSecond": 1500,
        },
        "error": None,
        "createdAt": "2024-05-01T12:00:00.000Z",
        "startedAt": "2024-05-01T12:00:01.005Z",
        "completedAt": "2024-05-01T12:00:02.999Z",
        "snapshotAt": "2024-05-01T12:00:01.250Z",
        "expiresAt": "2024-05-02T12:00:02.999Z",
        "removedAt": None,
        "waitingFor": None,
        "attempts": 1,
        "label": None,
        "ttl": None,
        "dataset": "users",
        "columns": ["id", "name"],
        "query": {"delimiter": ",", "quoteChar": '"'},
        "truncated": False,
        "sha256": bytes(range(32)).hex(),
        "etag": f'"{ID}"',
        "links": {"self": f"/exports/{ID}/status", "download": f"/exports/{ID}/download"},
    }


@pytest.mark.parametrize(
    ("ttl", "expires"),
    [
        (timedelta(hours=2), "2024-05-01T14:00:02.999Z"),
        (timedelta(milliseconds=1), "2024-05-01T12:00:03.000Z"),
        (timedelta(hours=48), "2024-05-02T12:00:02.999Z"),  # the server keeps exports for less by now
    ],
)
def test_an_export_expires_after_the_shorter_of_its_ttl_and_the_servers(ttl: timedelta, expires: str) -> None:
    found = shown(replace(EXPORT, label="Month end", ttl=ttl))
    assert (found["label"], found["ttl"], found["expiresAt"]) == ("Month end", ttl.total_seconds(), expires)


def test_unknown_members_of_a_pending_export_are_null() -> None:
    pending = replace(
        EXPORT,
        state=State.PENDING,
        progress=Progress(),
        started_at=None,
        finished_at=None,
        snapshot_at=None,
        sha256=None,
    )
    found = shown(pending)
    assert found["status"] == "pending"
    unknown = ("startedAt", "completedAt", "snapshotAt", "sha256", "error")
    assert [found[name] for name in unknown] == [None] * len(unknown)
    assert found["progress"] == {
        "totalRows": 0,
        "processedRows": 0,
        "percentage": 0.0,
        "estimated": True,
        "bytes": 0,
        "rowsPerSecond": 0,
    }


def test_an_export_with_an_unreadable_request_has_a_notice_instead() -> None:
    found, whole = shown(replace(EXPORT, spec=None)), shown(EXPORT)
    assert found.pop("notice") == UNREADABLE
    assert found == {name: value for name, value in whole.items() if name not in ("dataset", "columns", "query")}


def test_an_unknown_state_is_shown_as_text() -> None:
    found = shown(replace(EXPORT, state="archived"))
    assert (found["status"], found["expiresAt"]) == ("archived", None)


def test_a_failed_export_has_an_error() -> None:
    found = shown(replace(EXPORT, state=State.FAILED, error="PostgreSQL: division by zero"))
    assert (found["status"], found["error"]) == ("failed", "PostgreSQL: division by zero")


def test_times_are_utc_with_milliseconds() -> None:
    """Of every form: see test_schema.py."""
    moment = datetime(2024, 5, 1, 1, 2, 3, 456_789, tzinfo=timezone(-timedelta(minutes=90)))
    assert shown(replace(EXPORT, created_at=moment))["createdAt"] == "2024-05-01T02:32:03.456Z"


@pytest.mark.parametrize(
    ("conditions", "asked"),
    [
        ((("country_code", Operator.EQ, ("US",)),), {"country_code": "US"}),
        ((("country_code", Operator.EQ, ("US", "DE")),), {"country_code": ["US", "DE"]}),
        ((("lifetime_value", Operator.GTE, ("100.50",)),), {"lifetime_value__gte": "100.50"}),
        (
            (("id", Operator.GT, ("1",)), ("id", Operator.LT, ("9",)), ("id", Operator.LTE, ("8",))),
            {"id__gt": "1", "id__lt": "9", "id__lte": "8"},
        ),
    ],
)
def test_the_query_has_the_names_of_the_request_parameters(
    conditions: tuple[tuple[str, Operator, tuple[str, ...]], ...], asked: dict[str, Any]
) -> None:
    found = echo(
        *(Condition(column=column, operator=operator, values=values) for column, operator, values in conditions)
    )
    assert found == {**asked, "delimiter": ",", "quoteChar": '"'}


def test_the_query_always_has_delimiter_and_quote() -> None:
    assert echo(dialect=Dialect(delimiter="\t", quote="'")) == {"delimiter": "\t", "quoteChar": "'"}


def test_the_query_has_options_that_differ_from_their_defaults() -> None:
    dialect = Dialect(header=False, null="NULL", bom=True, escape_formulas=True, timestamps=Timestamps.ISO8601)
    assert echo(dialect=dialect) == {
        "delimiter": ",",
        "quoteChar": '"',
        "header": False,
        "null": "NULL",
        "bom": True,
        "escapeFormulas": True,
        "timestamps": "iso8601",
    }
    order = (Order(column="id"), Order(column="name", descending=True))
    spec = ExportSpec(dataset="users", columns=("id", "name"), order=order, limit=5)
    query = shown(replace(EXPORT, spec=spec))["query"]
    assert (query["order_by"], query["limit"]) == (["id", "-name"], 5)


def test_a_limit_that_cut_rows_sets_truncated() -> None:
    assert shown(EXPORT)["truncated"] is False
    assert shown(replace(EXPORT, truncated=True))["truncated"] is True


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("country_code", "US,DE"), ("min_ltv", "100")],
        [("columns", "name,id"), ("delimiter", "tab"), ("quoteChar", "'")],
        [("signup_date_from", "2024-01-01"), ("signup_date_to", "2024-01-31")],
        [("signup_date_to", "2024-01-31T10:00:00+02:00")],
        [("name", "Smith, John"), ("name", 'quoted "twice"'), ("id", "7")],
        [("id__gt", "1"), ("id__lte", "9"), ("lifetime_value_max", "1e3")],
        [("id__in", "1,2"), ("name__ne", "a,b"), ("name__ne", "c"), ("country_code__isnull", "true")],
        [("name__contains", "50%"), ("name__startswith", "_"), ("name", ""), ("name__gte", "a")],
        [("order_by", "-id,name"), ("limit", "7"), ("header", "false"), ("null", "NULL"), ("profile", "excel")],
        [("timestamps", "iso8601"), ("bom", "true")],
    ],
)
def test_the_query_sent_as_a_request_is_the_same_export(pairs: list[tuple[str, str]]) -> None:
    spec = read_spec(pairs, b"", CATALOG)
    found = shown(replace(EXPORT, spec=spec))
    body = {"dataset": found["dataset"], "columns": found["columns"], **found["query"]}
    assert read_spec([], json.dumps(body).encode(), CATALOG) == spec


def test_an_export_of_another_server_shows_its_stored_progress() -> None:
    noted = Progress(total_rows=50, processed_rows=20, bytes=40, percentage=40.0, rows_per_second=7)
    found = shown(replace(EXPORT, state=State.PROCESSING, progress=noted))
    assert (found["progress"]["processedRows"], found["progress"]["percentage"]) == (20, 40.0)
    assert found["snapshotAt"] == "2024-05-01T12:00:01.250Z"


async def must_not_be_called() -> bool:
    raise AssertionError("no byte is served here")


async def test_an_export_of_this_process_shows_its_current_progress(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor))
    live = ActiveExport(ID, OPEN.name, spool, note_served=must_not_be_called)
    stale = replace(
        EXPORT, state=State.PROCESSING, progress=Progress(), snapshot_at=None, sha256=None, finished_at=None
    )
    assert shown(stale, live)["snapshotAt"] is None
    assert shown(stale, live)["progress"]["totalRows"] == 0
    spool.open()
    live.begin(datetime(2024, 5, 1, 13, 0, tzinfo=UTC), b"", lambda: 50)
    await spool.append(b"1\n" * 25, 25)
    sealed = await spool.finish()
    found = shown(stale, live)
    assert found["snapshotAt"] == "2024-05-01T13:00:00.000Z"
    progress = found["progress"]
    assert (progress["processedRows"], progress["bytes"]) == (sealed.rows, sealed.length) == (25, 50)
    assert (progress["totalRows"], progress["percentage"], progress["estimated"]) == (50, 50.0, True)
    rerun = replace(stale, progress=Progress(percentage=75.0))
    assert shown(rerun, live)["progress"]["percentage"] == 75.0  # what an earlier run has reached
    completed = shown(EXPORT, live)["progress"]
    assert (completed["processedRows"], completed["percentage"], completed["estimated"]) == (3, 100.0, False)
    spool.seal()


def test_a_removed_export_has_removed_at_and_no_download_link() -> None:
    found = shown(replace(EXPORT, removed_at=datetime(2024, 5, 2, tzinfo=UTC)))
    assert (found["removedAt"], found["expiresAt"]) == ("2024-05-02T00:00:00.000Z", None)
    assert found["links"] == {"self": f"/exports/{ID}/status"}


def test_links_and_entity_tag_contain_the_id() -> None:
    assert Links().of(ID) == ExportLinks(self_=f"/exports/{ID}/status", download=f"/exports/{ID}/download")
    assert entity_tag(ID) == '"12345678-1234-4678-9234-567812345678"'
