"""The JSON of the HTTP API: one Struct for each object, which the server encodes and the client decodes.

The order of the fields is the order of the members. A member whose value is not known is null; only a member of type
`Unset` is left out. Decoding is lenient, since servers and clients of several versions meet: unknown members are
ignored, a missing member has its default, and a status or an operator is text, because a newer server may have more of
them.

Only the members without which an export cannot be followed are required: `exportId`, `status`, `etag` and, of
`progress`, `processedRows`, `bytes` and `percentage`.
"""

from datetime import UTC, datetime
from typing import Any, Self, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET

Unset = msgspec.UnsetType  # of a member that is left out, where it has no value
Form = TypeVar("Form")


class Timestamp(datetime):
    """A moment; in JSON it is in UTC with `Z`, cut to milliseconds."""

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The same moment."""
        return cls.combine(moment.date(), moment.timetz())

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises msgspec.ValidationError for anything but a date-time of RFC 3339."""
        return cls.of(msgspec.convert(text, datetime))

    def text(self) -> str:
        return self.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far an export is.

    Args:
        total_rows: The number of rows of the complete file; 0 until there is an estimate. Older servers send null.
        processed_rows: The number of rows so far, without the header.
        percentage: From 0 to 100; it never falls.
        estimated: Whether `total_rows` is an estimate.
        bytes: How many bytes of the file can be downloaded.
        rows_per_second: The current rate.
    """

    total_rows: int | None = 0
    processed_rows: int
    percentage: float
    estimated: bool = True  # of total_rows
    bytes: int
    rows_per_second: int = 0


class ExportLinks(msgspec.Struct, frozen=True, kw_only=True):
    """URLs, or paths from the root of the server. An export whose file was removed has no `download`."""

    self_: str = msgspec.field(name="self")
    download: str | Unset = UNSET


class RepresentationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A compressed form of an export, which the first request for it makes.

    Args:
        state: processing, completed or failed; a failed one is made again by the next request.
        etag: The entity tag of the compressed file.
        bytes: The length of the file, once it is completed.
        sha256: Of the completed file, in hexadecimal.
    """

    state: str
    etag: str
    bytes: int
    sha256: str | None = None


class ExportStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An export at one moment. `sha256` (hexadecimal) and the exact length in bytes are known once it is completed.

    `dataset`, `columns` and `query` repeat the request. They are left out, and `notice` says why, if the server cannot
    read them.
    """

    export_id: UUID
    status: str
    progress: ExportProgress
    error: str | None = None
    created_at: Timestamp | None = None
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    snapshot_at: Timestamp | None = None
    expires_at: Timestamp | None = None
    removed_at: Timestamp | None = None
    waiting_for: str | None = None  # place or source, while it has no snapshot
    attempts: int = 0
    label: str | None = None
    ttl: float | None = None  # seconds; None: the server's EXPORT_TTL
    notice: str | Unset | None = UNSET
    dataset: str | Unset = UNSET
    columns: tuple[str, ...] | Unset = UNSET
    query: dict[str, Any] | Unset = UNSET
    truncated: bool = False  # a limit has cut rows
    sha256: str | None = None
    etag: str
    representations: dict[str, RepresentationStatus] | Unset = UNSET  # by coding: gzip, zstd
    links: ExportLinks | Unset = UNSET


class ExportPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of the list of exports; `next_cursor` is None on the last one."""

    exports: tuple[ExportStatus, ...]
    next_cursor: str | None = None


class Created(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to POST /exports/csv. An Idempotency-Key may name an export with any status."""

    export_id: UUID
    status: str | Unset = UNSET
    links: ExportLinks | Unset = UNSET


class CreatedJob(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to POST /exports."""

    export_id: UUID
    job_id: UUID
    status: str


class CancelledJob(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to POST /exports/{id}/cancel."""

    job_id: UUID
    export_id: UUID
    status: str


class DatasetLinks(msgspec.Struct, frozen=True, kw_only=True):
    self_: str = msgspec.field(name="self")


class DatasetSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A dataset without its columns. `example` is a URL that exports a few of its rows."""

    name: str
    description: str | None = None
    estimated_rows: int | None = None
    required_filters: tuple[str, ...] = ()  # columns
    order_by: tuple[str, ...] = ()  # columns; "-" before a name: descending
    row_limit: int | None = None
    example: str
    links: DatasetLinks


class ColumnDescription(msgspec.Struct, frozen=True, kw_only=True):
    """`type` is PostgreSQL's name of it; `parameters` are the names of the conditions that the column can have."""

    name: str
    type: str
    operators: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    ordered: bool = True
    required: bool = False


class DatasetDescription(DatasetSummary, frozen=True, kw_only=True, rename="camel"):
    columns: tuple[ColumnDescription, ...]


class DatasetList(msgspec.Struct, frozen=True, kw_only=True):
    datasets: tuple[DatasetSummary, ...]


class ServerLinks(msgspec.Struct, frozen=True, kw_only=True):
    self_: str = msgspec.field(name="self")
    documentation: str
    datasets: str
    exports: str
    health: str


class ServerDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET / for programs."""

    name: str
    version: str
    links: ServerLinks


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /health: the process is alive."""

    status: str = "ok"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457, 3.1. `error` repeats `detail` for older clients; `parameter` is the one at fault, if there is one."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    instance: str | Unset = UNSET
    parameter: str | Unset = UNSET


def encode(body: object) -> bytes:
    """The JSON of a Struct of this module, or of built-in values."""
    return msgspec.json.encode(body, enc_hook=_to_builtin)


def decode(body: bytes, form: type[Form]) -> Form:
    """Raises msgspec.DecodeError, and UnicodeDecodeError for a body that is not UTF-8."""
    return msgspec.json.decode(body, type=form, dec_hook=_from_builtin)


def to_builtins(body: object) -> Any:
    """The same as `decode` without a form after `encode`: dicts, lists, texts and numbers."""
    return msgspec.to_builtins(body, enc_hook=_to_builtin)


def _to_builtin(value: object) -> str:
    if isinstance(value, Timestamp):
        return value.text()
    raise NotImplementedError(f"{type(value).__name__} has no form in JSON")


def _from_builtin(form: type, value: object) -> Timestamp:
    assert form is Timestamp
    return Timestamp.parse(value)
