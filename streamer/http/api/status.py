"""The status of an export, as JSON."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET

from streamer.coding import COMPRESSED, Coding
from streamer.http.api.general import GENERAL
from streamer.http.links import Links
from streamer.jobs.active import ActiveExport
from streamer.model import Condition, Dialect, Export, ExportSpec, Operator, Progress, Representation, State
from streamer.schema import ExportLinks, ExportProgress, ExportStatus, RepresentationStatus, Timestamp, Unset
from streamer.source.catalog.filters import written_order

UNREADABLE = (
    "this version of streamer cannot read what the export asks for: a newer version wrote its row, or it is damaged"
)


def export_status(export: Export, live: ActiveExport | None, *, ttl: timedelta, links: Links) -> ExportStatus:
    """Returns the row; if the export is running in this process, with its current progress.

    `ttl` is the server's EXPORT_TTL.
    """
    return ExportStatus(
        export_id=export.id,
        status=export.state,
        progress=_progress(export, live),
        error=export.error,
        created_at=_timestamp(export.created_at),
        started_at=_timestamp(export.started_at),
        completed_at=_timestamp(export.finished_at),
        snapshot_at=_timestamp(live.snapshot_at if live else export.snapshot_at),
        expires_at=_timestamp(_expiry(export, ttl)),
        removed_at=_timestamp(export.removed_at),
        waiting_for=_waiting_for(export, live),
        attempts=export.attempts,
        label=export.label,
        ttl=None if export.ttl is None else export.ttl.total_seconds(),
        **_request(export.spec),
        truncated=export.truncated,
        sha256=export.sha256.hex() if export.sha256 else None,
        etag=entity_tag(export.id),
        representations=_representations(export),
        links=_links(export, links),
    )


def entity_tag(export_id: UUID, representation: Representation | None = None) -> str:
    """Strong (RFC 9110, 8.8.3): the bytes of one name never change once one of them has been served.

    None is the CSV itself. The tag of a compressed representation names what made it.
    """
    return f'"{export_id}"' if representation is None else f'"{export_id}-{representation.name}"'


def coding_of_tag(tag: str, export_id: UUID) -> Coding | None:
    """Returns the coding of a representation of the export that has, or had, this entity tag."""
    if tag == entity_tag(export_id):
        return Coding.IDENTITY
    return next((coding for coding in COMPRESSED if tag.startswith(f'"{export_id}-{coding}-')), None)


def _representations(export: Export) -> dict[str, RepresentationStatus] | Unset:
    """Those of a removed export are removed, too."""
    if not export.representations or export.removed_at is not None:
        return UNSET
    return {
        each.coding: RepresentationStatus(
            state=each.state,
            etag=entity_tag(export.id, each),
            bytes=each.length,
            sha256=each.sha256.hex() if each.sha256 and each.state == State.COMPLETED else None,
        )
        for each in export.representations
    }


def parameter_of(condition: Condition) -> str:
    """Returns the name of the request parameter for a condition."""
    if condition.operator is Operator.EQ:
        return f"{condition.column}__in" if condition.column in GENERAL else condition.column
    return f"{condition.column}__{condition.operator}"


def _links(export: Export, links: Links) -> ExportLinks:
    """A removed file cannot be downloaded."""
    found = links.of(export.id)
    return found if export.removed_at is None else msgspec.structs.replace(found, download=UNSET)


def _waiting_for(export: Export, live: ActiveExport | None) -> str | None:
    """Returns `place` or `source` for an unfinished export that waits, otherwise None."""
    if export.final:
        return None
    if live is not None:
        return live.waiting_for
    return export.waiting_for or ("place" if export.state is State.PENDING else None)


def _expiry(export: Export, ttl: timedelta) -> datetime | None:
    """Returns when the file of a completed export may be removed."""
    if export.state is not State.COMPLETED or export.removed_at is not None or export.finished_at is None:
        return None
    return export.finished_at + (ttl if export.ttl is None else min(ttl, export.ttl))


def _progress(export: Export, live: ActiveExport | None) -> ExportProgress:
    progress = _current(live, export.progress) if live and export.state is State.PROCESSING else export.progress
    return ExportProgress(
        total_rows=progress.total_rows,
        processed_rows=progress.processed_rows,
        percentage=progress.percentage,
        estimated=progress.estimated,
        bytes=progress.bytes,
        rows_per_second=progress.rows_per_second,
    )


def _current(live: ActiveExport, stored: Progress) -> Progress:
    """The percentage is never below the one an earlier run has stored, in this process or on another server."""
    progress = live.meter.progress()
    return replace(progress, percentage=max(progress.percentage, stored.percentage))


def _request(spec: ExportSpec | None) -> dict[str, Any]:
    """Unknown members are left out, because clients have defaults for them."""
    if spec is None:
        return {"notice": UNREADABLE}
    return {"dataset": spec.dataset, "columns": spec.columns, "query": _query(spec)}


def _query(spec: ExportSpec) -> dict[str, Any]:
    """Returns the conditions and the options that differ from their defaults, by the names of the parameters."""
    values: dict[str, list[str]] = {}
    for condition in spec.conditions:
        values.setdefault(parameter_of(condition), []).extend(condition.values)
    conditions = {name: texts[0] if len(texts) == 1 else texts for name, texts in values.items()}
    return {**conditions, **_order_and_limit(spec), **_dialect(spec.dialect)}


def _order_and_limit(spec: ExportSpec) -> dict[str, Any]:
    return {
        **({"order_by": written_order(spec.order)} if spec.order else {}),
        **({} if spec.limit is None else {"limit": spec.limit}),
    }


def _dialect(dialect: Dialect) -> dict[str, Any]:
    defaults = _optional(Dialect())
    changed = {name: value for name, value in _optional(dialect).items() if value != defaults[name]}
    return {"delimiter": dialect.delimiter, "quoteChar": dialect.quote, **changed}


def _optional(dialect: Dialect) -> dict[str, Any]:
    """Returns the options that are only shown where they differ from their defaults."""
    return {
        "header": dialect.header,
        "null": dialect.null,
        "bom": dialect.bom,
        "escapeFormulas": dialect.escape_formulas,
        "timestamps": dialect.timestamps,
    }


def _timestamp(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else Timestamp.of(moment)
