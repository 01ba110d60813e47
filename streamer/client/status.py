"""The answers of the server as the client reads them: the Structs of the schema, with properties for programs."""

from typing import Any, TypeVar

import msgspec

from streamer import schema
from streamer.client.errors import ExportFailed, ExportGone, Refused
from streamer.model import State

Form = TypeVar("Form")


class ExportStatus(schema.ExportStatus, frozen=True, kw_only=True, rename="camel"):
    """An export at one moment, as `streamer.schema` has it. Members that the server leaves out are empty."""

    notice: str | None = None
    dataset: str = ""
    columns: tuple[str, ...] = ()
    query: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def completed(self) -> bool:
        return self.state == State.COMPLETED

    @property
    def final(self) -> bool:
        """Whether the export has ended. False for a state that only a newer server knows."""
        return self.state in set(State) and State(self.state).final

    @property
    def removed(self) -> bool:
        """Whether the export is completed, and its file was removed."""
        return self.completed and self.expires_at is None

    def raise_if_ended_badly(self) -> None:
        """Raises ExportFailed and ExportGone."""
        if self.state == State.FAILED:
            raise ExportFailed(f"export {self.export_id} failed on the server: {self.error}")
        if self.state == State.CANCELLED:
            raise ExportGone(f"export {self.export_id} was cancelled")


class ExportPage(schema.ExportPage, frozen=True, kw_only=True, rename="camel"):
    exports: tuple[ExportStatus, ...]


def read_json(body: bytes, form: type[Form], url: str) -> Form:
    """Decodes an answer of `url`. Raises Refused if it does not have this form."""
    try:
        return schema.decode(body, form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"the server at {url} is not a streamer: {error}") from error
