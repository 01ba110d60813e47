"""What an export is: frozen values, and the table of the states it may go through.

The table is a plan; the guard is SQL. Every statement that changes a state names the states it may leave
(`jobs/sql/`), so that no state is ever left twice, whoever races.

Several versions of the server may share one table, so a row may say more than this version understands. A request is
read strictly: a field that was dropped would export other rows than were asked for. What cannot be read is None, a
state that is not known stays the text it is, and no rule about either is guessed.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

import msgspec


class State(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.PROCESSING, State.FAILED, State.CANCELLED}),
    State.PROCESSING: frozenset({State.PENDING, State.COMPLETED, State.FAILED, State.CANCELLED}),  # or once more
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class Operator(StrEnum):
    EQ = "eq"  # equal to any of the values
    NE = "ne"  # equal to none of them
    GTE = "gte"
    GT = "gt"
    LTE = "lte"
    LT = "lt"
    CONTAINS = "contains"
    STARTSWITH = "startswith"
    ISNULL = "isnull"  # true or false


SPEC_VERSION = 1
"""Of what an ExportSpec may hold. To be raised with every change that a server of the version before would refuse."""


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`column operator value`, the values in the text form the column's type reads."""

    column: str
    operator: Operator
    values: tuple[str, ...]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By a column, as its type orders."""

    column: str
    descending: bool = False


class Timestamps(StrEnum):
    POSTGRES = "postgres"  # 2024-12-31 23:59:59+00
    ISO8601 = "iso8601"  # 2024-12-31T23:59:59Z


class Dialect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a record is written: delimiter and quote are one ASCII character each, and they differ.

    `null` is the text for NULL. What a version before this one has stored has the defaults.
    """

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    null: str = ""
    bom: bool = False
    escape_formulas: bool = False
    timestamps: Timestamps = Timestamps.POSTGRES


class ExportSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="version",  # in the JSON; without it the version is 1
    tag=SPEC_VERSION,
):
    """A validated request: every name is in the catalog, every value reads as its column's type.

    `limit` is in rows. What the dataset itself demands (forced filters, a row limit) is not in here: it is added when
    the export is run, as the dataset then is.
    """

    dataset: str
    columns: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    dialect: Dialect = msgspec.field(default_factory=Dialect)

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises msgspec.DecodeError for a text of another version, and for a damaged one."""
        return msgspec.json.decode(text, type=cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What is asked of the server: the rows, and what belongs to the export beside them.

    `label` is for people. `ttl` is how long the file stays once it is completed; None is the server's EXPORT_TTL.
    """

    spec: ExportSpec
    label: str | None = None
    ttl: timedelta | None = None


def folded(label: str) -> str:
    """A label, or a part of one, as labels are searched: in upper and lower case it is the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an export is. Rows are data records, without the header; bytes are those a client can read.

    `total_rows` is 0 until there is an estimate. `percentage` never falls, also if the export is run again.
    """

    total_rows: int = 0
    estimated: bool = True
    processed_rows: int = 0
    bytes: int = 0
    percentage: float = 0.0
    rows_per_second: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One row of the exports table."""

    id: UUID
    state: State | str  # a text: of a newer version
    spec: ExportSpec | None  # None: this version cannot read it
    progress: Progress
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    snapshot_at: datetime | None
    removed_at: datetime | None
    error: str | None
    sha256: bytes | None
    attempts: int
    served: bool
    truncated: bool  # a limit has cut rows
    waiting_for: str | None  # `source`, while it is unfinished
    folder: UUID | None  # in which its file lies; None before its first run, and in rows of older versions
    label: str | None
    ttl: timedelta | None  # None: the server's EXPORT_TTL

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            id=row["id"],
            state=_read_state(row["state"]),
            spec=read_spec(row),
            progress=Progress(**{name: row[name] for name in PROGRESS_COLUMNS}),
            **{name: row[name] for name in PLAIN_COLUMNS},
        )

    @property
    def final(self) -> bool:
        """False for a state that is not known: it may be left again."""
        return isinstance(self.state, State) and self.state.final


def read_spec(row: Mapping[str, Any]) -> ExportSpec | None:
    """What a row asks for; None if this version cannot read it."""
    if row["spec_version"] > SPEC_VERSION:
        return None
    try:
        return ExportSpec.from_json(row["spec"])
    except msgspec.DecodeError:
        return None


def _read_state(text: str) -> State | str:
    try:
        return State(text)
    except ValueError:
        return text


Place = tuple[datetime, UUID]  # in the list of exports: when one was created, and its id
PROGRESS_COLUMNS = ("total_rows", "estimated", "processed_rows", "bytes", "percentage", "rows_per_second")
PLAIN_COLUMNS = (
    "created_at",
    "started_at",
    "finished_at",
    "snapshot_at",
    "removed_at",
    "error",
    "sha256",
    "attempts",
    "served",
    "truncated",
    "waiting_for",
    "folder",
    "label",
    "ttl",
)
