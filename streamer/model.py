"""An export as frozen values, and the table of its states.

TRANSITIONS lists every statement of `jobs/sql/` that sets a state. The statements themselves enforce the table: each
names the states that it may leave, so of several concurrent statements only one leaves a state. A test compares the
table with the SQL.

Several versions of the server may share one exports table, so a row may contain more than this version understands. A
request is read strictly, because an export without one of its fields would contain other rows. A request that cannot be
read is None, and an unknown state stays a text; no rule about either is guessed.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Any, Final, Self
from uuid import UUID

import msgspec

from streamer.coding import Coding


class State(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether no statement leaves this state."""
        return self not in UNFINISHED


@dataclass(frozen=True, slots=True)
class Transition:
    """One statement: it changes rows in one of the states `leaves`, and their state is `enters` then."""

    leaves: frozenset[State]
    enters: State


def _from(*states: State, to: State) -> Transition:
    return Transition(frozenset(states), to)


TRANSITIONS: Mapping[str, Transition] = {
    "insert": _from(to=State.PENDING),
    "begin": _from(to=State.PROCESSING),
    "claim": _from(State.PENDING, to=State.PROCESSING),
    "wait_for_source": _from(State.PROCESSING, to=State.PENDING),
    "requeue": _from(State.PROCESSING, to=State.PENDING),
    "release": _from(State.PROCESSING, to=State.PENDING),
    "reclaim": _from(State.PROCESSING, to=State.PENDING),
    "complete": _from(State.PROCESSING, to=State.COMPLETED),
    "fail": _from(State.PROCESSING, to=State.FAILED),
    "fail_orphans": _from(State.PROCESSING, to=State.FAILED),
    "cancel": _from(State.PENDING, State.PROCESSING, to=State.CANCELLED),
}
"""By the name of the statement in `jobs/sql/`."""

UNFINISHED = frozenset[State]().union(*(transition.leaves for transition in TRANSITIONS.values()))


def successors(state: State) -> frozenset[State]:
    """Returns the other states that a statement may enter from this one."""
    return frozenset(each.enters for each in TRANSITIONS.values() if state in each.leaves) - {state}


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


SPEC_VERSION = 2
"""The version of ExportSpec. It must be raised with every change that servers of the previous version would refuse."""


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`column operator values`. A value is text in the input syntax of the column's type."""

    column: str
    operator: Operator
    values: tuple[str, ...]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column to order by, in the order of its type."""

    column: str
    descending: bool = False


class Timestamps(StrEnum):
    POSTGRES = "postgres"  # 2024-12-31 23:59:59+00
    ISO8601 = "iso8601"  # 2024-12-31T23:59:59Z


class Dialect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of a record. Delimiter and quote are one ASCII character each, and they differ.

    `null` is the text for NULL. Requests stored by earlier versions have the defaults.
    """

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    null: str = ""
    bom: bool = False
    escape_formulas: bool = False
    timestamps: Timestamps = Timestamps.POSTGRES


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a principal may read: applied to every export of it, and never shown to clients.

    `role` is the role of the source, None for the server's DATASET_ROLE. `conditions` are forced. `limit` is in rows.
    """

    role: str | None = None
    conditions: tuple[Condition, ...] = ()
    limit: int | None = None


class ExportSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="version",  # in the JSON; without it the version is 1
    tag=SPEC_VERSION,
):
    """A validated request: every name is in the catalog, and every value is valid for the type of its column.

    `limit` is in rows. Forced filters and the row limit of the dataset are not included: they are added when the export
    is run, from the configuration at that time. The `bounds` of its principal are those of the time of its creation, so
    that a second run, on any server, reads the same rows.
    """

    dataset: str
    columns: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    dialect: Dialect = msgspec.field(default_factory=Dialect)
    bounds: Bounds = Bounds()

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads this version and older ones. Raises msgspec.DecodeError for a newer version, and for a damaged text."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.ValidationError:
            return msgspec.convert(msgspec.json.decode(text, type=_FirstSpec), cls, from_attributes=True)


class _FirstSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="version", tag=1):
    """Version 1 of ExportSpec, which had no bounds."""

    dataset: str
    columns: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    dialect: Dialect = msgspec.field(default_factory=Dialect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A client, to which exports belong. `name` has the kind of its credential as a prefix; `open` has none."""

    name: str
    bounds: Bounds = field(default_factory=Bounds)


OPEN = Principal(name="open")
"""Every client of a server without access control."""


class Everybody(Enum):
    """The type of EVERYBODY."""

    EVERYBODY = "everybody"


EVERYBODY: Final = Everybody.EVERYBODY
"""In the place of a principal: the exports of all principals. For callers inside the server."""

Viewer = Principal | Everybody
"""Whose exports are visible."""


def visible_name(viewer: Viewer) -> str | None:
    """Returns the principal whose exports are visible; None if those of all are."""
    return None if viewer is EVERYBODY else viewer.name


def may_see(viewer: Viewer, principal: str) -> bool:
    """Returns whether the exports of the principal with this name are visible."""
    return visible_name(viewer) in (None, principal)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """A request for an export: the rows, and the properties of the export itself.

    `label` is a text for people. `ttl` is the lifetime of the completed file; None is the server's EXPORT_TTL.
    """

    spec: ExportSpec
    label: str | None = None
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFilter:
    """Selects exports in any of `states` (in all if empty), whose label contains `label`, of one `dataset`."""

    states: tuple[State, ...] = ()
    label: str | None = None
    dataset: str | None = None


def dataset_in_json(name: str) -> str:
    """Returns the name of a dataset as the JSON of an ExportSpec has it."""
    return msgspec.json.encode(name).decode()


def folded(label: str) -> str:
    """Returns a label, or a part of one, in the form for a search that ignores case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of an export. Rows are data records, without the header; bytes are those that a client can read.

    `total_rows` is 0 until there is an estimate. `percentage` never falls, even if the export is run again.
    """

    total_rows: int = 0
    estimated: bool = True
    processed_rows: int = 0
    bytes: int = 0
    percentage: float = 0.0
    rows_per_second: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """A compressed form of an export: one row of the representations table.

    The same coder, flushed at the same offsets, makes the same bytes. A generation is the bytes that clients may have
    downloaded a part of; there is a next one only if they cannot be made again.
    """

    export_id: UUID
    coding: Coding
    generation: int
    state: str
    coder: str  # library, version and level
    length: int = 0  # bytes
    sha256: bytes | None = None  # of the first `length` bytes; None if nothing is known about them
    flushes: bytes | None = None  # packed offsets
    folder: UUID | None = None  # of the file
    finished_at: datetime | None = None  # the first time
    removed_at: datetime | None = None  # the file
    is_new: bool = False  # no byte of it has been served

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            coding=Coding(row["coding"]),
            length=row["bytes"],
            **{name: row[name] for name in REPRESENTATION_COLUMNS},
            is_new=bool(row.get("is_new")),
        )

    @property
    def name(self) -> str:
        """Distinguishes its bytes from those of all other representations of the export; for an entity tag."""
        return f"{self.coding}-{NAME_BREAKS.sub('-', self.coder.lower())}-{self.generation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One row of the exports table."""

    id: UUID
    principal: str
    epoch: int  # of its last claim
    state: State | str  # a text if only a newer version knows it
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
    truncated: bool  # by a row limit
    waiting_for: str | None  # `source`, while it is unfinished
    folder: UUID | None  # of the file; None before the first run, and in rows of older versions
    label: str | None
    ttl: timedelta | None  # None: the server's EXPORT_TTL
    representations: tuple[Representation, ...] = ()  # those that have a file, if the statement has asked for them

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            id=row["id"],
            state=_read_state(row["state"]),
            spec=read_spec(row),
            progress=Progress(**{name: row[name] for name in PROGRESS_COLUMNS}),
            representations=_read_representations(row["id"], row.get("representations")),
            **{name: row[name] for name in PLAIN_COLUMNS},
        )

    @property
    def final(self) -> bool:
        """Returns False for an unknown state, because it may not be final."""
        return isinstance(self.state, State) and self.state.final


def _read_representations(export_id: UUID, text: str | None) -> tuple[Representation, ...]:
    """Reads the JSON that the statements build. A coding of a newer version is left out."""
    return tuple(
        Representation(
            export_id=export_id,
            coding=Coding(found.pop("coding")),
            sha256=bytes.fromhex(found.pop("sha256") or "") or None,
            **found,
        )
        for found in msgspec.json.decode(text or "[]")
        if found["coding"] in set(Coding)
    )


def read_spec(row: Mapping[str, Any]) -> ExportSpec | None:
    """Returns the request in a row; None if this version cannot read it."""
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


NAME_BREAKS = re.compile(r"[^a-z0-9.]+")
Place = tuple[datetime, UUID]  # in the list of exports: the time of creation of one, and its id
PROGRESS_COLUMNS = ("total_rows", "estimated", "processed_rows", "bytes", "percentage", "rows_per_second")
PLAIN_COLUMNS = (
    "principal",
    "epoch",
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
REPRESENTATION_COLUMNS = (
    "export_id",
    "generation",
    "state",
    "coder",
    "sha256",
    "flushes",
    "folder",
    "finished_at",
    "removed_at",
)
