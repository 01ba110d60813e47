"""What the server says of an export: its status, read from JSON."""

from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from streamer.client.errors import ExportFailed, ExportGone, Refused
from streamer.model import State

Form = TypeVar("Form")


class ExportProgress(msgspec.Struct, frozen=True, rename="camel"):
    """Rows are data records, without the header; `bytes` are those that can be downloaded; `percentage` is 0 to 100.

    `total_rows` is 0 until there is an estimate; an older server says None.
    """

    processed_rows: int
    bytes: int
    percentage: float
    total_rows: int | None = 0
    estimated: bool = True  # of total_rows
    rows_per_second: int = 0


class ExportStatus(msgspec.Struct, frozen=True, rename="camel"):
    """An export at one moment. `sha256` (hexadecimal) and the exact length in bytes are known once it is completed."""

    export_id: UUID
    state: str = msgspec.field(name="status")  # a State, or that of a newer server
    progress: ExportProgress
    etag: str
    error: str | None = None
    sha256: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    snapshot_at: datetime | None = None
    expires_at: datetime | None = None
    label: str | None = None
    ttl: float | None = None  # seconds; None: the server's EXPORT_TTL
    waiting_for: str | None = None  # place or source, while it has no snapshot
    dataset: str = ""
    columns: tuple[str, ...] = ()
    query: dict[str, Any] = {}
    notice: str | None = None  # why dataset, columns and query are not told

    @property
    def completed(self) -> bool:
        return self.state == State.COMPLETED

    @property
    def final(self) -> bool:
        """Whether it has ended, as far as this client knows its state."""
        return self.state in set(State) and State(self.state).final

    @property
    def removed(self) -> bool:
        """Whether it is completed, and its file is gone."""
        return self.completed and self.expires_at is None

    def raise_if_ended_badly(self) -> None:
        """Raises ExportFailed and ExportGone."""
        if self.state == State.FAILED:
            raise ExportFailed(f"export {self.export_id} failed on the server: {self.error}")
        if self.state == State.CANCELLED:
            raise ExportGone(f"export {self.export_id} was cancelled")


class ExportPage(msgspec.Struct, frozen=True, rename="camel"):
    exports: list[ExportStatus]
    next_cursor: str | None = None


class Created(msgspec.Struct, frozen=True, rename="camel"):
    export_id: UUID


def read_json(body: bytes, form: type[Form], url: str) -> Form:
    """Raises Refused where it is not what a streamer says."""
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"what answers at {url} is not a streamer: {error}") from error
