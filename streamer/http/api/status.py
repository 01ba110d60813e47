"""An export as JSON."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from streamer.http.api.parameters import GENERAL
from streamer.http.links import Links
from streamer.jobs.active import ActiveExport
from streamer.model import Condition, Dialect, Export, ExportSpec, Operator, Progress, State
from streamer.source.catalog.filters import written_order

UNREADABLE = (
    "this version of streamer cannot read what the export asks for: a newer version wrote its row, or it is damaged"
)


def representation(export: Export, live: ActiveExport | None, *, ttl: timedelta, links: Links) -> dict[str, Any]:
    """The row, with the progress of this moment where the export is running here."""
    progress = _at_the_moment(live, export.progress) if live and export.state is State.PROCESSING else export.progress
    return {
        "exportId": str(export.id),
        "status": export.state,
        "progress": _progress(progress),
        "error": export.error,
        "createdAt": _time(export.created_at),
        "startedAt": _time(export.started_at),
        "completedAt": _time(export.finished_at),
        "snapshotAt": _time(live.snapshot_at if live else export.snapshot_at),
        "expiresAt": _time(_expiry(export, ttl)),
        "removedAt": _time(export.removed_at),
        "waitingFor": _waiting_for(export, live),
        "attempts": export.attempts,
        "label": export.label,
        "ttl": None if export.ttl is None else export.ttl.total_seconds(),
        **_request(export.spec),
        "truncated": export.truncated,
        "sha256": export.sha256.hex() if export.sha256 else None,
        "etag": entity_tag(export.id),
        "links": _links(export, links),
    }


def _links(export: Export, links: Links) -> dict[str, str]:
    """A file that was removed has none."""
    return {name: link for name, link in links.of(export.id).items() if name == "self" or export.removed_at is None}


def _waiting_for(export: Export, live: ActiveExport | None) -> str | None:
    """What an unfinished export waits for: `place`, `source` or nothing."""
    if export.final:
        return None
    if live is not None:
        return live.waiting_for
    return export.waiting_for or ("place" if export.state is State.PENDING else None)


def _at_the_moment(live: ActiveExport, noted: Progress) -> Progress:
    """The percentage is not below what an earlier run has reached, here or on another server."""
    progress = live.meter.progress()
    return replace(progress, percentage=max(progress.percentage, noted.percentage))


def _request(spec: ExportSpec | None) -> dict[str, Any]:
    """What was asked for. Members of which nothing is known are left out: clients have defaults for them."""
    if spec is None:
        return {"notice": UNREADABLE}
    return {"dataset": spec.dataset, "columns": spec.columns, "query": _query(spec)}


def _expiry(export: Export, ttl: timedelta) -> datetime | None:
    """When the file of a completed export may be removed."""
    if export.state is not State.COMPLETED or export.removed_at is not None or export.finished_at is None:
        return None
    return export.finished_at + (ttl if export.ttl is None else min(ttl, export.ttl))


def entity_tag(export_id: UUID) -> str:
    """Strong (RFC 9110, 8.8.3): the bytes of one export id never change once one of them has been served."""
    return f'"{export_id}"'


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "totalRows": progress.total_rows,
        "processedRows": progress.processed_rows,
        "percentage": progress.percentage,
        "estimated": progress.estimated,
        "bytes": progress.bytes,
        "rowsPerSecond": progress.rows_per_second,
    }


def parameter_of(condition: Condition) -> str:
    """The name that asks for it."""
    if condition.operator is Operator.EQ:
        return f"{condition.column}__in" if condition.column in GENERAL else condition.column
    return f"{condition.column}__{condition.operator}"


def _query(spec: ExportSpec) -> dict[str, Any]:
    """The conditions, and what else is not as it would be by itself, under the names of the parameters."""
    asked: dict[str, list[str]] = {}
    for condition in spec.conditions:
        asked.setdefault(parameter_of(condition), []).extend(condition.values)
    conditions = {name: values[0] if len(values) == 1 else values for name, values in asked.items()}
    return {**conditions, **_rows(spec), **_written(spec.dialect)}


def _rows(spec: ExportSpec) -> dict[str, Any]:
    return {
        **({"order_by": written_order(spec.order)} if spec.order else {}),
        **({} if spec.limit is None else {"limit": spec.limit}),
    }


def _written(dialect: Dialect) -> dict[str, Any]:
    usual = _forms(Dialect())
    changed = {name: form for name, form in _forms(dialect).items() if form != usual[name]}
    return {"delimiter": dialect.delimiter, "quoteChar": dialect.quote, **changed}


def _forms(dialect: Dialect) -> dict[str, Any]:
    """What is told only where it is not as usual, by the names of the parameters."""
    return {
        "header": dialect.header,
        "null": dialect.null,
        "bom": dialect.bom,
        "escapeFormulas": dialect.escape_formulas,
        "timestamps": dialect.timestamps,
    }


def _time(moment: datetime | None) -> str | None:
    """UTC with Z and milliseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
