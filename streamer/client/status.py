"""The answers of the server as the client reads them: the Structs of the schema, with properties for programs."""

from typing import Any, TypeVar

import msgspec

from streamer import schema
from streamer.client.errors import ExportFailed, ExportGone, Refused
from streamer.model import State

Form = TypeVar("Form")


class ExportStatus(schema.ExportStatus, frozen=True, kw_only=True, rename="camel"):
    """An export at one moment. Moments have a time zone; what is not known is None or empty.

    Args:
        export_id: The id of the export.
        status: pending, processing, completed, failed or cancelled; a newer server may have more.
        progress: Rows and bytes so far.
        error: Why the export failed.
        created_at: When the export was requested.
        started_at: When the server began to read.
        completed_at: When the export ended, with any status.
        snapshot_at: The moment of the rows: later changes are not in the file.
        expires_at: When the server may remove the file.
        removed_at: When the server removed the file.
        waiting_for: "place" while other exports run, "source" while the database cannot be read.
        attempts: How often the server has started to read.
        label: The text for people.
        ttl: How long the file stays once it is completed, in seconds; None: the default of the server.
        notice: Why the server cannot show the request.
        dataset: The name of the dataset.
        columns: The names of the columns, in the order of the file.
        query: The conditions and options of the request, by the names of the parameters.
        truncated: Whether a limit has cut rows.
        sha256: Of the completed file, in hexadecimal.
        etag: The entity tag of the download.
        representations: The compressed files, by coding: state, ETag, bytes and SHA-256. UNSET: none was requested.
        links: The URLs of the export.
    """

    notice: str | None = None
    dataset: str = ""
    columns: tuple[str, ...] = ()
    query: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def completed(self) -> bool:
        """Whether all rows are in the file."""
        return self.status == State.COMPLETED

    @property
    def final(self) -> bool:
        """Whether the export has ended. False for a status that only a newer server knows."""
        return self.status in set(State) and State(self.status).final

    @property
    def removed(self) -> bool:
        """Whether the export is completed, and its file was removed."""
        return self.completed and self.expires_at is None

    def raise_if_ended_badly(self) -> None:
        """Raises ExportFailed and ExportGone."""
        if self.status == State.FAILED:
            raise ExportFailed(f"export {self.export_id} failed on the server: {self.error}")
        if self.status == State.CANCELLED:
            raise ExportGone(f"export {self.export_id} was cancelled")


class ExportPage(schema.ExportPage, frozen=True, kw_only=True, rename="camel"):
    exports: tuple[ExportStatus, ...]


def read_json(body: bytes, form: type[Form], url: str) -> Form:
    """Decodes an answer of `url`. Raises Refused if it does not have this form."""
    try:
        return schema.decode(body, form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"the server at {url} is not a streamer server: {error}") from error
